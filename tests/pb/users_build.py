"""The output of protoc for a user's own protos: reflex.proto, and a service with its messages.

Built as generated code builds itself, in protobuf's default pool. This reflex.proto differs from ours by an
option, as copies do: the two in one pool are an error.
"""

# duration_pb2 and timestamp_pb2 are imported for their effect: they register messages in the default pool.
from google.protobuf import descriptor_pool, duration_pb2, message_factory, timestamp_pb2  # noqa: F401
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from reflex_aio import pb

_reflex = FileDescriptorProto()
pb.StreamRequest.DESCRIPTOR.file.CopyToProto(_reflex)
_reflex.options.go_package = "example.com/users/reflexpb"

_users = FileDescriptorProto(
    name="users.proto", package="users", syntax="proto3", dependency=["reflex.proto"]
)
_service = _users.service.add(name="Users")
_service.method.add(
    name="StreamUsers",
    input_type=".reflexpb.StreamRequest",
    output_type=".reflexpb.Event",
    server_streaming=True,
)

_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_reflex.SerializeToString())
_pool.AddSerializedFile(_users.SerializeToString())

Event = message_factory.GetMessageClass(_pool.FindMessageTypeByName("reflexpb.Event"))
StreamRequest = message_factory.GetMessageClass(_pool.FindMessageTypeByName("reflexpb.StreamRequest"))
METHOD = "/users.Users/StreamUsers"
