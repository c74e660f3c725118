"""Message classes of the wire protocol: those of protos/, and those of Google's protos that they import.

They are created from a descriptor set, in a descriptor pool of their own. protobuf's default pool would reject a second
build of reflex.proto, such as that of your own service, and any protobuf older than the generator rejects generated
code.
"""

from importlib.resources import files
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

pool: Final = DescriptorPool()

for _file in FileDescriptorSet.FromString((files(__name__) / "wire.binpb").read_bytes()).file:
    pool.AddSerializedFile(_file.SerializeToString())
    for _message in _file.message_type:
        globals()[_message.name] = GetMessageClass(
            pool.FindMessageTypeByName(f"{_file.package}.{_message.name}")
        )
