# Types for accesslog_pb2_grpc.py, made by proto/generate.py. DO NOT EDIT!
from collections.abc import Iterator

import grpc

from authz.pb import accesslog_pb2

class AccessLogServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    StreamAccessLogs: grpc.StreamUnaryMultiCallable[accesslog_pb2.StreamAccessLogsMessage, accesslog_pb2.StreamAccessLogsResponse]

class AccessLogServiceServicer:
    def StreamAccessLogs(
        self, request_iterator: Iterator[accesslog_pb2.StreamAccessLogsMessage], context: grpc.ServicerContext
    ) -> accesslog_pb2.StreamAccessLogsResponse: ...

def add_AccessLogServiceServicer_to_server(servicer: AccessLogServiceServicer, server: grpc.Server) -> None: ...
