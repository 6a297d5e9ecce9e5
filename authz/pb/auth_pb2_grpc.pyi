# Types for auth_pb2_grpc.py, made by proto/generate.py. DO NOT EDIT!
from collections.abc import Iterator

import grpc

from authz.pb import auth_pb2

class AuthorizationStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    Check: grpc.UnaryUnaryMultiCallable[auth_pb2.CheckRequest, auth_pb2.CheckResponse]

class AuthorizationServicer:
    def Check(
        self, request: auth_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> auth_pb2.CheckResponse: ...

def add_AuthorizationServicer_to_server(servicer: AuthorizationServicer, server: grpc.Server) -> None: ...
