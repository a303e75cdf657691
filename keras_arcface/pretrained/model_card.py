"""Model card of a network: a README with YAML metadata, as the Hugging Face Hub shows it."""

import json
import re

from keras_arcface.pretrained.preset import Preset

_ALIGNMENTS = {
    "five_points": "by five landmarks to the template of `keras_arcface.data.align`",
    "none": "none",
    "": "not stated",
}


def model_card(preset: Preset, num_weights: int | None = None) -> str:
    """Returns the model card of a network as Markdown.

    Args:
        preset: description of the network.
        num_weights: number of weights of the embedder.
    """
    height, width = preset.image_size
    facts = {
        "network": preset.network,
        "weights": "" if num_weights is None else f"{num_weights:,}",
        "input": f"{preset.color} in 0..255, {height} x {width} pixels (height x width)",
        "alignment": _ALIGNMENTS[preset.alignment],
        "embedding": f"{preset.dim} numbers, not normalized; compare embeddings by their cosine",
        "trained on": preset.trained_on or "not stated",
    }
    sections = [
        _metadata(preset),
        f"# {_line(preset.name)}",
        preset.description.strip(),
        _table(["", ""], [[name, text] for name, text in facts.items() if text]),
        "## Use",
        '```python\nfrom keras_arcface import pretrained\n\nembedder = pretrained.load("path/of/this/folder")\n'
        "embeddings = embedder.predict(images)\n```",
        "`embedder.keras` is a plain Keras model, which `keras.saving.load_model` loads without keras_arcface.",
        *_figures(preset),
        *_thresholds(preset),
        "## License",
        _license(preset),
    ]
    if preset.references:
        sections += ["## References", "\n".join(f"- {_line(reference)}" for reference in preset.references)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(preset: Preset) -> str:
    """Returns the metadata that the Hugging Face Hub reads. JSON texts are valid YAML."""
    spdx = preset.license.name.lower()
    is_spdx = re.fullmatch(r"[a-z0-9.+-]+", spdx) is not None
    lines = ["library_name: keras", "tags: [face-recognition, face-verification, keras_arcface]"]
    if preset.license.name:
        lines.append(f"license: {json.dumps(spdx if is_spdx else 'other')}")
    if preset.license.name and not is_spdx:
        lines.append(f"license_name: {json.dumps(preset.license.name)}")
    return "\n".join(["---", *lines, "---"])


def _figures(preset: Preset) -> list[str]:
    if not preset.figures:
        return []
    rows = [
        [figure.benchmark, figure.metric, f"{figure.value:.4f}", _interval(figure.interval, ".4f"), figure.source]
        for figure in preset.figures
    ]
    return ["## Results", _table(["evaluation set", "metric", "value", "95% interval", "source"], rows)]


def _thresholds(preset: Preset) -> list[str]:
    if not preset.thresholds:
        return []
    rows = [
        [
            f"{entry.threshold:.4f}",
            "" if entry.far is None else f"{entry.far:.2g}",
            _interval(entry.far_interval, ".2g"),
            "" if entry.tar is None else f"{entry.tar:.4f}",
            entry.source,
        ]
        for entry in preset.thresholds
    ]
    return [
        "## Thresholds",
        "Two images are accepted as the same person if the cosine of their embeddings is at or above the threshold. "
        "The false accept rate (FAR) is that of the evaluation sets; measure it on images of the intended use.",
        _table(["cosine", "FAR", "95% interval of the FAR", "TAR", "source"], rows),
    ]


def _license(preset: Preset) -> str:
    terms = preset.license
    text = f"{_line(terms.name) or 'Not stated'}{f' ({_line(terms.url)})' if terms.url else ''}."
    return text if terms.commercial_use else f"{text} It does not allow commercial use."


def _interval(interval: tuple[float, ...] | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_line(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _line(text: str) -> str:
    """Returns a text on a single line."""
    return " ".join(text.split())
