# Types for health_pb2_grpc.py, made by proto/generate.py. DO NOT EDIT!
from collections.abc import Iterator

import grpc

from authz.pb import health_pb2

class HealthStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    Check: grpc.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

class HealthServicer:
    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse: ...

def add_HealthServicer_to_server(servicer: HealthServicer, server: grpc.Server) -> None: ...
