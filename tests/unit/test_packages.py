import importlib.metadata
import subprocess
import sys

import pipeline


def test_the_name_pipeline_is_ours_alone():
    """The package's name is generic: another distribution could bring it too."""
    # an editable installation lists no files, so there only another claimant would show
    claims = importlib.metadata.packages_distributions().get("pipeline", ["bark-serve"])
    assert set(claims) == {"bark-serve"}


def test_public_names_are_these():
    assert pipeline.__all__ == ["Bark", "Clip"]
    assert pipeline.Bark.__name__ == "Bark"
    assert pipeline.Clip.__name__ == "Clip"


def test_ordering_and_checking_need_no_torch():
    code = (
        "import sys, pipeline.synthesis, pipeline.voices, pipeline.audio, pipeline.generations;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_a_model_never_imports_transformers():
    code = "import sys, pipeline.bark; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
