"""The messages of the wire, as classes: those of protos/, and of Google's protos what these import.

They are made from a descriptor set in a pool of their own. In protobuf's default pool a second build of
reflex.proto, such as that of a service of your own, would be refused; and generated code would be refused by
any protobuf older than the generator.
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
