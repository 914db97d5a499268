"""The gRPC-lite server of vstore."""
