import pytest
from google.protobuf import descriptor_pb2
from google.protobuf import text_format

from keras_arcface.serving.deploy import text_proto

STRANGE = 'a "b" $HOME, it\'s {c} \\ ü #'


@pytest.mark.parametrize("text", ["", "plain", STRANGE, "new\nline\ttab\r", "\x00\x7f", "漢字 😀", "\\x41 \\101", "'"])
def test_strings_survive_a_round_trip(text):
    message = text_format.Parse(f"name: {text_proto.string(text)}", descriptor_pb2.FileDescriptorProto())
    assert message.name == text
    assert text_proto.string(text).isascii()
