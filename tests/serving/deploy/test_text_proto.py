from google.protobuf import descriptor_pb2
from google.protobuf import text_format
from hypothesis import example
from hypothesis import given
from hypothesis import strategies

from keras_arcface.serving.deploy import text_proto


@given(strategies.text())
@example('a "b" $HOME, it\'s {c} \\ ü #')
@example("new\nline\ttab\r")
@example("\x00\x7f")
@example("漢字 😀")
@example("\\x41 \\101")
def test_strings_survive_a_round_trip(text):
    written = text_proto.string(text)
    message = text_format.Parse(f"name: {written}", descriptor_pb2.FileDescriptorProto())
    assert message.name == text
    assert written.isascii()
    assert written.isprintable()
