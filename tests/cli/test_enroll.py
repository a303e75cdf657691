"""The command `keras-arcface enroll`, on photos of squares whose color is the person."""

import json

import numpy as np
import pytest
from conftest import encode
from faces.detectors import BLUE
from faces.detectors import DARK_RED
from faces.detectors import GREEN
from faces.detectors import RED
from faces.detectors import ColorDetector
from faces.detectors import photo_of

from keras_arcface import faces
from keras_arcface.gallery import Gallery


@pytest.fixture
def here(tmp_path, color_detector, monkeypatch):
    """The current directory, with photos of ann (red) and bob (green)."""
    monkeypatch.chdir(tmp_path)
    for person in ("ann", "bob"):
        (tmp_path / "photos" / person).mkdir(parents=True)
    (tmp_path / "photos" / "ann" / "1.png").write_bytes(photo_of(RED))
    (tmp_path / "photos" / "ann" / "2.png").write_bytes(photo_of(DARK_RED))
    (tmp_path / "photos" / "bob" / "1.png").write_bytes(photo_of(GREEN))
    return tmp_path


@pytest.fixture
def enroll(run, here, color_embedder):
    """Runs `enroll people.db`, which must end with exit code 0. Returns the JSON document and the messages."""

    def enroll(*arguments, code=0):
        done = run("enroll", "people.db", *arguments, "--embedder", color_embedder, "--json")
        assert done.code == code, done.err
        return (json.loads(done.out) if done.out else None), done.err

    return enroll


def images_of(person):
    """Returns the names of the enrolled photos without their checksums, and the most similar colors."""
    with Gallery.open("people.db") as gallery:
        names = [image.name.partition("#")[0] for image in gallery.images(person)]
        embeddings = gallery.embeddings(person)
    colors = (RED, GREEN, BLUE, DARK_RED)
    return names, [max(colors, key=lambda color: cosine(color, embedding)) for embedding in embeddings]


def cosine(first, second):
    return float(np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second))


def test_folders_of_people(enroll):
    found, messages = enroll("photos")
    assert found["people"] == {
        "ann": {"added": 2, "known": 0, "images": 2},
        "bob": {"added": 1, "known": 0, "images": 1},
    }
    assert (found["problems"], found["several_faces"], found["skipped"]) == ({}, {}, 0)
    assert messages.endswith("\nEnrolled 3 photos of 2 people\npeople.db has 2 people\n")
    assert "WARNING" not in messages
    assert images_of("ann") == (["1.png", "2.png"], [RED, DARK_RED])


def test_the_same_command_adds_only_new_photos(enroll, here):
    enroll("photos")
    (here / "photos" / "bob" / "new.png").write_bytes(photo_of(BLUE))
    (here / "photos" / "bob" / "copy.png").write_bytes(photo_of(GREEN))
    # Another photo of the same name.
    (here / "photos" / "ann" / "1.png").write_bytes(photo_of((255, 30, 20)))
    found, messages = enroll("photos")
    assert found["people"] == {
        "ann": {"added": 1, "known": 1, "images": 3},
        "bob": {"added": 1, "known": 2, "images": 2},
    }
    assert "Enrolled 2 photos of 2 people\n3 photos were enrolled already\n" in messages
    assert images_of("ann")[0] == ["1.png", "2.png", "1.png"]
    assert images_of("bob")[1] == [GREEN, BLUE]
    # A photo of one person may also be enrolled for another one.
    (here / "photos" / "bob" / "of-ann.png").write_bytes(photo_of(RED))
    assert enroll("photos")[0]["people"]["bob"] == {"added": 1, "known": 3, "images": 3}


def test_name_adds_to_a_person(enroll, here):
    enroll("photos")
    (here / "more" / "deeper").mkdir(parents=True)
    (here / "more" / "deeper" / "3.png").write_bytes(photo_of((250, 30, 30)))
    found, _ = enroll("more", "photos/bob/1.png", "photos/ann/1.png", "--name", "ann")
    assert found["people"] == {"ann": {"added": 2, "known": 1, "images": 4}}
    assert images_of("ann")[0] == ["1.png", "2.png", "3.png", "1.png"]


def test_replace(enroll, here):
    enroll("photos")
    (here / "photos" / "ann" / "1.png").unlink()
    (here / "photos" / "bob" / "1.png").write_bytes(photo_of())
    (here / "photos" / "carl").mkdir()
    (here / "photos" / "carl" / "1.png").write_bytes(photo_of(BLUE))
    found, messages = enroll("photos", "--replace")
    assert images_of("ann") == (["2.png"], [DARK_RED])
    assert images_of("bob") == (["1.png"], [GREEN])  # nobody is removed because a photo has no face
    assert images_of("carl")[0] == ["1.png"]
    assert "WARNING: photos/bob/1.png: no face was found" in messages
    assert found["people"]["ann"] == {"added": 1, "known": 0, "images": 1}


def test_photos_that_are_not_enrolled_are_reported(enroll, here):
    ann = here / "photos" / "ann"
    (ann / "damaged.png").write_bytes(b"damaged")
    (ann / "none.png").write_bytes(photo_of())
    (ann / "none.txt").write_text("a note")
    (ann / ".hidden.png").write_bytes(photo_of(BLUE))
    (ann / "three.png").write_bytes(photo_of(BLUE, RED, GREEN))
    (here / "photos" / "empty").mkdir()
    found, messages = enroll("photos")
    assert list(found["problems"]) == ["photos/ann/damaged.png", "photos/ann/none.png"]
    assert found["several_faces"] == {"photos/ann/three.png": 3}
    assert found["skipped"] == 1
    assert found["people"]["empty"] == {"added": 0, "known": 0, "images": 0}
    assert images_of("ann")[1][2] == RED  # the face in the center
    for message in (
        "WARNING: photos/ann/damaged.png is not a readable photo.",
        "WARNING: photos/ann/none.png: no face was found\n",
        "WARNING: photos/ann/three.png: 3 faces, of which the main one is enrolled\n",
        "WARNING: empty is not enrolled, because no photo shows a face\n",
        "1 file has another type\n",
    ):
        assert message in messages


def test_a_rejected_main_face_is_not_enrolled(enroll, here):
    found, messages = enroll("photos", "--min-size", 100, code=1)
    assert found is None
    assert "error: PHOTOS must show the face of at least one person. Received: 3 photos without a face" in messages
    assert "photos/ann/1.png: the main face is rejected: size is below 100" in messages


def test_an_interruption_keeps_the_people_that_are_finished(enroll, here, monkeypatch):
    for number in range(70):
        (here / "photos" / "bob" / f"{number + 2}.png").write_bytes(photo_of((30, 255, number)))
    (here / "photos" / "carl").mkdir()
    (here / "photos" / "carl" / "1.png").write_bytes(photo_of(BLUE))

    class Interrupted(ColorDetector):
        def __call__(self, photo):
            if photo[30, 30].tolist() == list(BLUE):
                raise KeyboardInterrupt
            return super().__call__(photo)

    with monkeypatch.context() as patch:
        patch.setattr(faces, "YuNet", lambda path: Interrupted())
        enroll("photos", code=130)
    with Gallery.open("people.db") as gallery:
        assert gallery.people() == ["ann"]
    found, _ = enroll("photos")
    assert found["people"]["ann"] == {"added": 0, "known": 2, "images": 2}
    assert found["people"]["bob"]["images"] == 71
    assert found["people"]["carl"]["added"] == 1


def test_list_and_remove(run, enroll):
    enroll("photos")
    done = run("enroll", "people.db", "--list")
    assert done == (0, "ann: 2 photos\nbob: 1 photo\n", "")
    done = run("enroll", "people.db", "--remove", "ann")
    assert done == (0, "Removed ann. people.db has 1 person. Photos and backups are not removed\n", "")
    found = json.loads(run("enroll", "--list", "people.db", "--json").out)
    assert list(found["people"]) == ["bob"]
    assert found["people"]["bob"][0].startswith("1.png#sha256=")
    done = run("enroll", "people.db", "--remove", "ann")
    message = "error: --remove must be a person that --list prints, of 1 person in people.db. Received: ann\n"
    assert done == (1, "", message)
    assert json.loads(run("enroll", "people.db", "--remove", "bob", "--json").out) == {"removed": "bob", "people": 0}


def test_calibration(run, enroll, here):
    (here / "photos" / "ann" / "2.png").unlink()
    colors = [(20 * number, 20, 255) for number in range(10)]  # from blue towards red
    for number, color in enumerate(colors):
        # The first five have a folder, whose first photo shows no face.
        folder = here / "strangers" / (str(number) if number < 5 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}-z.png").write_bytes(photo_of(color))
        if number < 5:
            (folder / f"{number}-a.png").write_bytes(photo_of())
            (folder / f"{number}-zz.png").write_bytes(photo_of(RED))  # not used
    (here / "strangers" / "none.png").write_bytes(photo_of())
    found, messages = enroll("photos", "--calibrate", "strangers", "--fpir", 0.2)
    threshold = found["threshold"]
    scores = sorted(max(cosine(color, person) for person in (RED, GREEN)) for color in colors)
    assert threshold["name"] == "fpir=0.2"
    assert scores[7] < threshold["threshold"] <= scores[8]
    assert (threshold["accepted"], threshold["impostors"], threshold["gallery_size"]) == (2, 10, 2)
    assert threshold["without_face"] == 1
    assert threshold["nearest"] == {
        "photo": "strangers/9-z.png",
        "person": "ann",
        "score": pytest.approx(scores[9], abs=1e-3),
    }
    assert "1 stranger without a face\n" in messages
    assert f"Threshold fpir=0.2: {threshold['threshold']:.4f}, which 2 of 10 strangers reach" in messages
    assert "The most similar stranger is strangers/9-z.png, with a score of" in messages
    assert run("enroll", "people.db", "--list").out.endswith(
        f"Threshold fpir=0.2: {threshold['threshold']:.4f}, calibrated for 2 people\n"
    )
    # Later, without PHOTOS.
    found, _ = enroll("--calibrate", "strangers", "--fpir", 0.5)
    assert list(found) == ["threshold"]
    with Gallery.open("people.db") as gallery:
        assert list(gallery.thresholds()) == ["fpir=0.2", "fpir=0.5"]


def test_calibration_requires_enough_strangers(enroll, here):
    enroll("photos")
    (here / "strangers").mkdir()
    for number in range(3):
        (here / "strangers" / f"{number}.png").write_bytes(photo_of(BLUE))
    _, messages = enroll("--calibrate", "strangers", "--fpir", 0.25, code=1)
    assert "of at least 4 people for --fpir 0.25. Received: strangers, with photos of 3 people" in messages
    assert "at least 100 people for --fpir 0.01" in enroll("--calibrate", "strangers", code=1)[1]
    (here / "strangers" / "3.png").write_bytes(encode(np.zeros((20, 20, 3), np.uint8)))
    _, messages = enroll("--calibrate", "strangers", "--fpir", 0.25, code=1)
    assert "Received: photos that show a face of 3 people" in messages


def test_another_embedder_is_refused(run, enroll, here):
    import keras

    enroll("photos")
    images = keras.Input((112, 112, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    keras.Model(images, keras.layers.Dense(3)(pooled)).save("other.keras")
    done = run("enroll", "people.db", "photos", "--embedder", "other.keras")
    assert (done.code, done.out) == (1, "")
    assert "error: embedder_sha256 must be that of the embedder of people.db" in done.err
    assert done.err.endswith("--embedder must be the one with which the gallery was created. Received: other.keras\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "No such file or directory: nowhere"),
        (("photos/ann",), "or --name must name the person. Received: photos/ann/1.png"),
        (("photos/ann/1.png",), "or --name must name the person. Received: photos/ann/1.png"),
        (("empty",), "one folder of photos for each person. Received: empty without a photo"),
        (("empty", "--name", "ann"), "PHOTOS must be a folder with photos"),
        (("photos/ann/1.png", "--name", ""), "name must be a text of at least one printable character"),
        (("--calibrate", "empty"), "No such file or directory: people.db"),
        (("--list",), "No such file or directory: people.db"),
        (("--remove", "ann"), "No such file or directory: people.db"),
        (("photos", "--calibrate", "nowhere"), "No such file or directory: nowhere"),
    ],
)
def test_mistakes_create_no_gallery(run, here, color_embedder, arguments, message):
    (here / "empty").mkdir()
    done = run("enroll", "people.db", *arguments, "--embedder", color_embedder)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert not (here / "people.db").exists()


def test_photos_in_the_place_of_the_gallery(run, here, color_embedder):
    done = run("enroll", "photos", "people.db", "--embedder", color_embedder)
    assert done == (1, "", "error: GALLERY must be a file, and comes before PHOTOS. Received: the folder photos\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: PHOTOS"),
        (("--replace",), "the following arguments are required: PHOTOS"),
        (("--list", "photos"), "--list must not be combined with PHOTOS"),
        (("--list", "--remove", "ann"), "--list must not be combined with --remove"),
        (("--remove", "ann", "--calibrate", "photos"), "--remove must not be combined with --calibrate"),
        (("--list", "--name", "ann"), "--name requires PHOTOS"),
        (("--calibrate", "photos", "--replace"), "--replace requires PHOTOS"),
        (("photos", "--fpir", "0.1"), "--fpir requires --calibrate"),
        (("--calibrate", "photos", "--fpir", "0"), "--fpir must be in (0, 1]. Received: 0"),
    ],
)
def test_usage_errors(run, arguments, message):
    done = run("enroll", "people.db", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}\n")
