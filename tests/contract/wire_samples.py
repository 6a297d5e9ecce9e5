"""Messages as Envoy and we send them, written with envoy-data-plane,
the fields that our .proto files leave out among them.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

from contract.data_plane import accesslog, auth, core, data, protobuf, rpc, types

NOON: Final = datetime.datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=datetime.UTC)
UNKNOWN_TYPE: Final = protobuf.Any(
    type_url="type.googleapis.com/nobody.Knows", value=b"\x0a\x01\xff"
)
CHAT: Final = (
    '{"model":"llama-3.1-8b","messages":[{"role":"user","content":"Grüß dich 👋"}]}'.encode()
)


def _ip(address: str, port: int) -> core.Address:
    return core.Address(socket_address=core.SocketAddress(address=address, port_value=port))


def _ms(milliseconds: float) -> datetime.timedelta:
    return datetime.timedelta(milliseconds=milliseconds)


def _metadata(**namespaces: dict[str, Any]) -> core.Metadata:
    return core.Metadata(
        filter_metadata={
            name: protobuf.Struct.from_dict(each) for name, each in namespaces.items()
        },
        typed_filter_metadata={"somebody.else": UNKNOWN_TYPE},
    )


def _header(key: str, value: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=key, value=value),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _check(http: auth.AttributeContextHttpRequest, **more: Any) -> auth.CheckRequest:
    request = auth.AttributeContextRequest(time=NOON, http=http)
    return auth.CheckRequest(attributes=auth.AttributeContext(request=request, **more))


CHECKS: Final = {
    "chat over TLS and HTTP/2": _check(
        auth.AttributeContextHttpRequest(
            id="7636248186324477957",
            method="POST",
            headers={
                ":authority": "gate.example",
                ":method": "POST",
                ":path": "/v1/chat/completions?beta=true",
                ":scheme": "https",
                "authorization": "Bearer made-up,made-up-too",
                "content-type": "application/json",
                "x-empty": "",
                "x-envoy-auth-partial-body": "false",
                "x-request-id": "81a60760-889f-427d-af3d-9bdd2d2cd6fb",
            },
            path="/v1/chat/completions?beta=true",
            host="gate.example",
            scheme="https",
            size=len(CHAT),
            protocol="HTTP/2",
            raw_body=CHAT,
        ),
        source=auth.AttributeContextPeer(
            address=_ip("2001:db8::7", 50412),
            service="curl",
            labels={"app": "notebook"},
            principal="spiffe://example/notebook",
            certificate="-----BEGIN%20CERTIFICATE-----",
        ),
        destination=auth.AttributeContextPeer(address=_ip("2001:db8::1", 443)),
        context_extensions={"route": "models"},
        metadata_context=_metadata(jwt={"sub": "ann", "aud": ["a", "b"], "exp": 1.8e9, "x": None}),
        route_metadata_context=_metadata(tensorgate={"dialect": "openai", "deep": {"er": [True]}}),
        tls_session=auth.AttributeContextTlsSession(sni="gate.example"),
    ),
    "raw headers": _check(
        auth.AttributeContextHttpRequest(
            method="GET",
            path="/v1/models",
            size=-1,
            header_map=core.HeaderMap(
                headers=[
                    core.HeaderValue(key="x-odd", raw_value=b"\xff\x00"),
                    core.HeaderValue(key="x-odd", raw_value=b"again"),
                ]
            ),
        ),
        source=auth.AttributeContextPeer(
            address=core.Address(pipe=core.Pipe(path="@client", mode=0o600))
        ),
    ),
    "gRPC unary": _check(
        auth.AttributeContextHttpRequest(
            method="POST",
            path="/inference.GRPCInferenceService/ModelInfer",
            headers={"content-type": "application/grpc", "te": "trailers"},
            raw_body=b"\x00\x00\x00\x00\x07\x0a\x05llama",
        ),
        source=auth.AttributeContextPeer(
            address=core.Address(
                socket_address=core.SocketAddress(
                    protocol=core.SocketAddressProtocol.UDP, address="127.0.0.1", named_port="http"
                )
            )
        ),
    ),
    "a coding agent's prompt": _check(
        auth.AttributeContextHttpRequest(method="POST", raw_body=CHAT * 8192, size=len(CHAT) * 8192)
    ),
    "nothing": auth.CheckRequest(),
}

ENTRIES: Final = {
    "streamed": data.HttpAccessLogEntry(
        common_properties=data.AccessLogCommon(
            sample_rate=1.0,
            downstream_remote_address=_ip("198.51.100.7", 50412),
            downstream_local_address=_ip("192.0.2.1", 443),
            tls_properties=data.TlsProperties(
                tls_version=data.TlsPropertiesTlsVersion.TLSv1_3,
                tls_cipher_suite=0x1301,
                tls_sni_hostname="gate.example",
                local_certificate_properties=data.TlsPropertiesCertificateProperties(
                    subject_alt_name=[
                        data.TlsPropertiesCertificatePropertiesSubjectAltName(dns="gate.example")
                    ]
                ),
            ),
            start_time=NOON,
            time_to_last_rx_byte=_ms(1),
            time_to_first_upstream_tx_byte=_ms(2.5),
            time_to_last_upstream_tx_byte=_ms(2.75),
            time_to_first_upstream_rx_byte=_ms(180),
            time_to_last_upstream_rx_byte=_ms(65_000.001),
            time_to_first_downstream_tx_byte=_ms(181),
            time_to_last_downstream_tx_byte=_ms(65_001),
            duration=_ms(65_002),
            upstream_remote_address=_ip("192.0.2.9", 8000),
            upstream_local_address=_ip("192.0.2.1", 40312),
            upstream_cluster="gpu-a",
            upstream_transport_failure_reason="",
            metadata=_metadata(
                ext_authz={"outcome": "allowed", "hold_id": "hold_1", "ext_authz_duration": 2.0},
                usage={"prompt_tokens": 812, "completion_tokens": 4096, "events": [{"n": 1}, {}]},
            ),
            route_name="models",
            filter_state_objects={"somebody.else": UNKNOWN_TYPE},
            custom_tags={"tag": "value"},
            upstream_request_attempt_count=2,
            stream_id="81a60760-889f-427d-af3d-9bdd2d2cd6fb",
            downstream_wire_bytes_sent=2**40,
            access_log_type=data.AccessLogType.DownstreamEnd,
        ),
        protocol_version=data.HttpAccessLogEntryHttpVersion.HTTP2,
        request=data.HttpRequestProperties(
            request_method=core.RequestMethod.POST,
            scheme="https",
            authority="gate.example",
            port=443,
            path="/v1/chat/completions",
            user_agent="OpenAI/Python 3.54.0",
            request_id="81a60760-889f-427d-af3d-9bdd2d2cd6fb",
            request_body_bytes=len(CHAT),
            request_headers={"content-type": "application/json", "x-empty": ""},
        ),
        response=data.HttpResponseProperties(
            response_code=200,
            response_body_bytes=190_211,
            response_headers={"content-type": "text/event-stream"},
            response_trailers={"grpc-status": "0"},
            response_code_details="via_upstream",
        ),
    ),
    "still running": data.HttpAccessLogEntry(
        common_properties=data.AccessLogCommon(
            start_time=NOON,
            access_log_type=data.AccessLogType.DownstreamPeriodic,
            stream_id="81a60760-889f-427d-af3d-9bdd2d2cd6fb",
        )
    ),
    "denied, with every kind of flag": data.HttpAccessLogEntry(
        common_properties=data.AccessLogCommon(
            response_flags=data.ResponseFlags(
                downstream_connection_termination=True,
                downstream_remote_reset=True,
                failed_local_healthcheck=True,
                unauthorized_details=data.ResponseFlagsUnauthorized(
                    reason=data.ResponseFlagsUnauthorizedReason.EXTERNAL_SERVICE
                ),
            ),
            downstream_direct_remote_address=_ip("198.51.100.7", 50412),
            connection_termination_details="reset",
        ),
        response=data.HttpResponseProperties(response_code=0, response_code_details="x"),
    ),
}

LOGS: Final = {
    "a batch, first on its stream": accesslog.StreamAccessLogsMessage(
        identifier=accesslog.StreamAccessLogsMessageIdentifier(
            node=core.Node(
                id="gate",
                cluster="tensorgate",
                metadata=protobuf.Struct.from_dict({"zone": "a"}),
                user_agent_name="envoy",
                user_agent_version="1.40.0",
                client_features=["left.out"],
            ),
            log_name="tensorgate",
        ),
        http_logs=accesslog.StreamAccessLogsMessageHttpAccessLogEntries(
            log_entry=list(ENTRIES.values())
        ),
    ),
    "of another protocol": accesslog.StreamAccessLogsMessage(
        tcp_logs=accesslog.StreamAccessLogsMessageTcpAccessLogEntries(
            log_entry=[
                data.TcpAccessLogEntry(
                    connection_properties=data.ConnectionProperties(received_bytes=7)
                )
            ]
        )
    ),
}

RESPONSES: Final = {
    "allowed": auth.CheckResponse(
        status=rpc.Status(),
        ok_response=auth.OkHttpResponse(
            headers=[_header("x-tensorgate-model", "llama-3.1-8b"), _header("x-empty", "")],
            headers_to_remove=["authorization", "x-api-key", "cookie"],
            response_headers_to_add=[_header("x-ratelimit-remaining-requests", "59")],
            query_parameters_to_set=[core.QueryParameter(key="a", value="b")],
            query_parameters_to_remove=["key"],
        ),
        dynamic_metadata=protobuf.Struct.from_dict(
            {"outcome": "allowed", "reason": "", "hold_id": "h"}
        ),
    ),
    "denied": auth.CheckResponse(
        status=rpc.Status(code=7, message="rate_limit_exceeded", details=[UNKNOWN_TYPE]),
        denied_response=auth.DeniedHttpResponse(
            status=types.HttpStatus(code=types.StatusCode.TooManyRequests),
            headers=[_header("retry-after", "7"), _header("grpc-status", "8")],
            body='{"error": {"message": "…", "code": "rate_limit_exceeded"}}',
        ),
        dynamic_metadata=protobuf.Struct.from_dict({"outcome": "denied"}),
    ),
    "neither": auth.CheckResponse(status=rpc.Status(code=13)),
}
