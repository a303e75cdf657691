"""Check of licenses that must be accepted. It imports no Keras, so that commands check it first."""

from keras_arcface.pretrained.preset import Preset


def check_license(preset: Preset, accept_license: bool) -> None:
    """Raises a ValueError if the license of a preset does not allow commercial use, and the user does not accept it."""
    terms = preset.license
    if not terms.commercial_use and not accept_license:
        name = f"{terms.name or 'not stated'}{f' ({terms.url})' if terms.url else ''}"
        raise ValueError(
            f"The license of the weights of {preset.name} does not allow commercial use: {name}. If you accept it, "
            "pass accept_license=True, or --accept-license on the command line. "
            f"Received: accept_license={accept_license}"
        )
