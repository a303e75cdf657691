import os

import pytest
from conftest import encode
from conftest import make_face
from face_trees import write_ytf

from keras_arcface.data import YtfSet

PAIRS = [
    (1, "Ann_Lee/0", "Ann_Lee/2", True),
    (1, "Bob/1", "Ann_Lee/0", False),
    (2, "Bob/1", "Bob/4", True),
    (2, "Cy/0", "Ann_Lee/2", False),
]


@pytest.fixture
def ytf(tmp_path):
    videos = ("Ann_Lee/0", "Ann_Lee/1", "Ann_Lee/2", "Bob/1", "Bob/4", "Cy/0")
    frames = {video: [encode(make_face(p, n), ".jpg") for n in range(1 + p % 3)] for p, video in enumerate(videos)}
    write_ytf(tmp_path, frames, PAIRS)
    (tmp_path / "aligned_images_DB" / "Bob" / "1" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def test_frames_videos_and_pairs(ytf):
    found = YtfSet(ytf)
    # Video Ann_Lee/1 is in no pair.
    assert found.video_names == ["Ann_Lee/0", "Ann_Lee/2", "Bob/1", "Bob/4", "Cy/0"]
    assert found.videos.tolist() == [0, 1, 1, 1, 2, 3, 3, 4, 4, 4]
    assert found.names[:2] == ["Ann_Lee/0/aligned_detect_10.jpg", "Ann_Lee/2/aligned_detect_10.jpg"]
    assert found.pairs.tolist() == [[0, 1], [2, 0], [2, 3], [4, 1]]
    assert found.same.tolist() == [True, False, True, False]
    assert found.folds == 2
    assert len(found) == 10
    assert found[3] == (ytf / "aligned_images_DB" / "Ann_Lee" / "2" / "aligned_detect_12.jpg").read_bytes()
    assert found[2:4] == [found[2], found[3]]
    folder = str(ytf / "aligned_images_DB")
    assert repr(found) == f"<YtfSet({folder!r}): 10 frames of 5 videos, 4 pairs in 2 splits>"


def test_list_without_heading_and_corrected_list(ytf):
    lines = (ytf / "splits.txt").read_text().splitlines()[1:]
    (ytf / "splits.txt").write_text("\n".join(lines))
    assert YtfSet(ytf).pairs.tolist() == [[0, 1], [2, 0], [2, 3], [4, 1]]
    corrected = [f"{line}, {int(number < 1)}" for number, line in enumerate(lines)]
    (ytf / "corrected.txt").write_text("a, heading\n" + "\n".join(corrected))
    assert YtfSet(ytf, "corrected.txt").same.tolist() == [True, False, False, False]


def test_unaligned_frames_are_read_without_aligned_ones(ytf):
    (ytf / "aligned_images_DB").rename(ytf / "frame_images_DB")
    assert repr(YtfSet(ytf)).startswith(f"<YtfSet({str(ytf / 'frame_images_DB')!r})")
    (ytf / "frame_images_DB").rename(ytf / "frames")
    with pytest.raises(FileNotFoundError, match=r"must contain a folder aligned_images_DB or frame_images_DB"):
        YtfSet(ytf)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (2, "1, 1, Ann_Lee/0, Ann_Lee/2", r"line 2: expected 5 or 6 fields, .* Received: '1, 1, Ann_Lee/0, Ann_Lee/2'"),
        (3, "1, 2, Bob/1, Ann_Lee/0, 0, 1", r"line 3: expected 5 fields, separated by commas. Received"),
        (3, "1, 2, Bob/1, Ann_Lee/0, 2", r"line 3: expected `split, pair, person/video, person/video, 1 or 0`"),
        (3, "1, 2, Bob, Ann_Lee/0, 0", r"line 3: expected `split, pair"),
        (3, "1, 2, ../1, Ann_Lee/0, 0", r"line 3: expected `split, pair"),
        (3, "one, 2, Bob/1, Ann_Lee/0, 0", r"line 3: expected `split, pair"),
        (
            4,
            "1, 3, Bob/1, Bob/4, 1",
            r"splits.txt must have two or more splits .* Received: 3 in split 1, 1 in split 2",
        ),
        (
            2,
            "2, 1, Ann_Lee/0, Ann_Lee/2, 1",
            r"line 4: expected all pairs of a split in consecutive lines. Received: sp",
        ),
        (
            3,
            "1, 2, Bob/9, Ann_Lee/0, 0",
            r"line 3: expected the frames of video Bob/9 in .*Bob/9. Received: no such folder",
        ),
        (
            3,
            "1, 2, Bob/empty, Ann_Lee/0, 0",
            r"line 3: expected the frames of video Bob/empty .*a folder without images",
        ),
    ],
)
def test_invalid_lines_are_named(ytf, line, text, message):
    (ytf / "aligned_images_DB" / "Bob" / "empty").mkdir()
    lines = (ytf / "splits.txt").read_text().splitlines()
    lines[line - 1] = text
    (ytf / "splits.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        YtfSet(ytf)


def test_invalid_lists_are_named(ytf):
    for content, message in (
        (b"", "must contain pairs of videos. Received: no pair"),
        (b"heading\n", "must contain pairs of videos. Received: no pair"),
        (b"\xff\n", "must be encoded as UTF-8"),
        (b"1, 1, Bob/1, Bob/4, 1\n1, 2, Cy/0, Bob/4, 0\n", "must have two or more splits .* Received: 2 in split 1"),
    ):
        (ytf / "splits.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"splits.txt {message}"):
            YtfSet(ytf)
    with pytest.raises(
        FileNotFoundError, match=r"other.txt must be a list of pairs of YouTube Faces. Received: no such"
    ):
        YtfSet(ytf, "other.txt")


def test_links_that_leave_the_folder_are_not_followed(ytf, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (ytf / "aligned_images_DB" / "Cy").rename(outside / "Cy")
    (ytf / "aligned_images_DB" / "Cy").symlink_to(outside / "Cy")
    with pytest.raises(ValueError, match=r"aligned_images_DB/Cy/0 must be inside of the folder .*follow_links=True"):
        YtfSet(ytf)
    assert len(YtfSet(ytf, follow_links=True)) == 10
    fifo = ytf / "aligned_images_DB" / "Bob" / "1" / "a.jpg"
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match=r"a.jpg must be a regular file. Received: a FIFO"):
        YtfSet(ytf, follow_links=True)[4]
