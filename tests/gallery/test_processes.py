"""Several processes, of which some are killed."""

import subprocess
import sys
import textwrap
import time

import killed_writers
import numpy as np
import pytest

from keras_arcface.gallery import Gallery


def test_nothing_is_lost_and_nothing_comes_back_when_a_writer_is_killed(path):
    assert killed_writers.run(path, times=2) > 0


@pytest.mark.slow
def test_fifty_writers_are_killed(path):
    assert killed_writers.run(path, times=50, seed=1) > 1000


def test_two_processes_write_while_a_third_one_searches(path, rng):
    program = textwrap.dedent("""
        import sys
        import numpy as np
        from keras_arcface.gallery import Gallery

        path, writer = sys.argv[1], int(sys.argv[2])
        with Gallery.open(path) as gallery:
            for number in range(30):
                person = f"{writer} {number}"
                gallery.enroll(person, np.random.default_rng([writer, number]).normal(size=(2, 16)))
                if number % 3 == 0:
                    gallery.remove(person)
                if number % 10 == 0:
                    assert gallery.search(np.ones((1, 16)))
    """)
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(writer)], stderr=subprocess.PIPE, text=True)
        for writer in range(2)
    ]
    seen = set()
    with Gallery.open(path) as gallery:
        while any(writer.poll() is None for writer in writers):
            people = set(gallery.people())
            seen |= people
            found = {match.person for match in gallery.search(rng.normal(size=(1, 16)), top_k=200)[0]}
            assert people - found <= {person for person in people if int(person.split()[1]) % 3 == 0}
            assert not found & (seen - people), "found after the removal"
            time.sleep(0.02)
        errors = [writer.communicate()[1] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0], errors
        expected = [f"{writer} {number}" for writer in range(2) for number in range(30) if number % 3]
        assert gallery.people() == sorted(expected)
        for person in expected:
            assert gallery.search(gallery.embeddings(person).mean(axis=0)[np.newaxis], top_k=1)[0]


def test_opening_a_gallery_twice_does_not_release_its_locks(path):
    """Otherwise another process that closes it would delete the log to which this one writes."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM people'); c.close()"
    with Gallery.open(path) as gallery:
        gallery.enroll("ann", [[1.0]])
        with Gallery.open(path, precision="int8") as other:
            other.search([[1.0]])
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        assert path.with_name("people.db-wal").exists()


def test_two_processes_create_a_gallery_at_once(path):
    program = textwrap.dedent("""
        import sys
        from keras_arcface.gallery import Gallery

        with Gallery.open(sys.argv[1]) as gallery:
            gallery.enroll(sys.argv[2], [[1.0]])
    """)
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in ("ann", "bob")]
    assert [process.wait() for process in processes] == [0, 0]
    with Gallery.open(path) as gallery:
        assert gallery.people() == ["ann", "bob"]
