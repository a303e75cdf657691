"""A gallery does what a dictionary does, in any order of operations."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import stateful
from hypothesis import strategies as st

from keras_arcface.gallery import Gallery

PEOPLE = st.sampled_from(["ann", "bob", "cem", "dan"])
CODES = st.lists(st.integers(0, 999), min_size=1, max_size=3, unique=True)


def embeddings(codes):
    return np.stack([np.random.default_rng(code).normal(size=8) for code in codes]).astype(np.float32)


def template(codes):
    rows = embeddings(codes).astype(np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


class GalleryMachine(stateful.RuleBasedStateMachine):
    """The model is `{person: {image: code}}`, where a code determines an embedding."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "people.db")
        self.galleries = [Gallery.open(self.path), Gallery.open(self.path, precision="int8")]
        self.model = {}

    def teardown(self):
        for gallery in self.galleries:
            gallery.close()
        self.folder.cleanup()

    @stateful.rule(person=PEOPLE, codes=CODES, which=st.integers(0, 1))
    def enroll(self, person, codes, which):
        images = self.model.setdefault(person, {})
        codes = [code for code in codes if str(code) not in images]
        if codes:
            names = [str(code) for code in codes]
            assert self.galleries[which].enroll(person, embeddings(codes), names) == len(codes)
            images |= dict(zip(names, codes, strict=True))
        if not images:
            del self.model[person]

    @stateful.precondition(lambda self: self.model)
    @stateful.rule(choice=st.data(), codes=CODES, which=st.integers(0, 1))
    def update(self, choice, codes, which):
        person = choice.draw(st.sampled_from(sorted(self.model)))
        self.galleries[which].update(person, embeddings(codes), [str(code) for code in codes])
        self.model[person] = {str(code): code for code in codes}

    @stateful.precondition(lambda self: self.model)
    @stateful.rule(choice=st.data(), which=st.integers(0, 1), all_images=st.booleans())
    def remove(self, choice, which, all_images):
        person = choice.draw(st.sampled_from(sorted(self.model)))
        image = None if all_images else choice.draw(st.sampled_from(list(self.model[person])))
        self.galleries[which].remove(person, image)
        if image is not None:
            del self.model[person][image]
        if image is None or not self.model[person]:
            del self.model[person]

    @stateful.rule(which=st.integers(0, 1))
    def reopen(self, which):
        self.galleries[which].close()
        self.galleries[which] = Gallery.open(self.path, precision=("float32", "int8")[which])

    @stateful.rule(which=st.integers(0, 1))
    def delete_a_matrix(self, which):
        self.path.with_name(f"people.db.{('float32', 'int8')[which]}").unlink(missing_ok=True)

    @stateful.rule(code=st.integers(0, 999))
    def search(self, code):
        probe = template([code])
        expected = sorted((float(template(images.values()) @ probe) for images in self.model.values()), reverse=True)
        for gallery in self.galleries:
            (matches,) = gallery.search([probe])
            np.testing.assert_allclose([match.score for match in matches], expected[:5], atol=1e-6)
            for person, score in matches:
                np.testing.assert_allclose(template(self.model[person].values()) @ probe, score, atol=1e-6)

    @stateful.invariant()
    def lists_the_people(self):
        for gallery in self.galleries:
            assert gallery.people() == sorted(self.model)
            assert len(gallery) == len(self.model)
            for person, images in self.model.items():
                assert [image.name for image in gallery.images(person)] == list(images)
                np.testing.assert_array_equal(gallery.embeddings(person), embeddings(images.values()))


TestGallery = GalleryMachine.TestCase
TestGallery.settings = settings(max_examples=15, stateful_step_count=25)
