"""Writes RecordIO files for tests by the description of the format, independently of the package's reader."""

import struct
from pathlib import Path

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)


def frame(payload: bytes) -> bytes:
    """Returns a record. It has several parts if the payload has the magic number at a multiple of four."""
    parts, start = [], 0
    for at in range(0, len(payload) - 3, 4):
        if payload[at : at + 4] == MAGIC_BYTES:
            parts.append(payload[start:at])
            start = at + 4
    parts.append(payload[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        struct.pack("<II", MAGIC, kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def payload(image: bytes, label, id_: int, id2: int = 0) -> bytes:
    """Returns the header and the image; a list of labels follows the header."""
    if isinstance(label, (list, tuple)):
        return struct.pack(f"<IfQQ{len(label)}f", len(label), 0.0, id_, id2, *label) + image
    return struct.pack("<IfQQ", 0, label, id_, id2) + image


def write(path: Path, records, property_=None, index=True) -> list[int]:
    """Writes `(key, payload)` records in order, with an index by default, and returns their offsets."""
    offsets, content = [], b""
    for _, data in records:
        offsets.append(len(content))
        content += frame(data)
    path.write_bytes(content)
    if index:
        lines = (f"{key}\t{offset}\n" for (key, _), offset in zip(records, offsets, strict=True))
        path.with_suffix(".idx").write_text("".join(lines))
    if property_:
        path.with_name("property").write_text(property_)
    return offsets


def ms1m_layout(people: list[list[bytes]], first_key: int = 1):
    """Returns records in the order of MS1M: images, identities, and the header with key 0 as the last one."""
    records, ranges, key = [], [], first_key
    for label, images in enumerate(people):
        ranges.append((key, key + len(images)))
        for image in images:
            records.append((key, payload(image, [label, 1], key)))
            key += 1
    first_identity = key
    for first, end in ranges:
        records.append((key, payload(b"", [first, end], key, 1)))
        key += 1
    return [*records, (0, payload(b"", [first_identity, key], 0))]
