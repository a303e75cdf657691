"""Window of a file that a search moves forward."""

from collections.abc import Callable

CHUNK_BYTES = 1 << 20

Read = Callable[[int, int], bytes]  # (offset, number of bytes) -> bytes


class ForwardReader:
    """Reads every part of a file once if the searches start in ascending order.

    Args:
        read: function that reads from the file.
        size: size of the file.
        header_bytes: number of bytes that are sought.
    """

    def __init__(self, read: Read, size: int, header_bytes: int):
        self._read, self._size, self._header_bytes = read, size, header_bytes
        self._offset, self._chunk = 0, b""

    def find(self, start: int, find_in_chunk: Callable[[bytes, int, int], int | None]) -> int:
        """Returns the next offset at which a header starts, or the size of the file if no header follows.

        Args:
            start: smallest offset.
            find_in_chunk: function of a part of the file, the position in it at which the search starts, and the offset
                of the part. It returns the position of the first complete header, or None.
        """
        while start + self._header_bytes <= self._size:
            if not self._offset <= start <= self._offset + len(self._chunk) - self._header_bytes:
                self._offset, self._chunk = start, self._read(start, CHUNK_BYTES)
            found = find_in_chunk(self._chunk, start - self._offset, self._offset)
            if found is not None:
                return self._offset + found
            start = max(start, self._offset + len(self._chunk) - self._header_bytes) + 1  # a header may cross the end
        return self._size
