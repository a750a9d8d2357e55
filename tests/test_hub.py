"""A hub that does not answer is asked once, for a moment; a folder that is there is never asked for."""

import urllib.error
import urllib.request

import pytest
from huggingface_hub import constants

from ifguide import hub
from ifguide.models import ModelSettings


@pytest.fixture
def asked(monkeypatch):
    """How often the hub was asked, which does not answer."""
    calls = []

    def no_answer(request, timeout):
        calls.append(timeout)
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", no_answer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in hub.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    hub.answers.cache_clear()
    yield calls
    hub.answers.cache_clear()


def test_it_is_asked_once_and_the_way_out_is_said(asked):
    settings = ModelSettings(pretrained="somebody/model")
    assert not settings.has_dropout
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^model\.pretrained=somebody/model: no folder .* set HF_HUB_OFFLINE=1"):
            settings.check("model")
    assert asked == [hub.TIMEOUT]


def test_a_folder_is_not_asked_for(asked, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        ModelSettings(pretrained=str(tmp_path)).check("model")
    for mistyped in ("./nowhere", "/nowhere/model", "~/nowhere", "a/b/c"):
        with pytest.raises(ValueError, match=r"not a Hugging Face model folder"):
            ModelSettings(pretrained=mistyped).check("model")
    assert not asked


def test_a_refusal_of_the_hub_is_an_answer(asked, monkeypatch):
    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 401, "not you", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert hub.answers()
