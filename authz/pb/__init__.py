"""Envoy's API and gRPC health as protobuf modules, made from proto/ by `make proto`."""
