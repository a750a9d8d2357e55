"""What is said of prompts before anything is trained."""

from types import SimpleNamespace

from ifguide.corpus.documents import Prompt
from ifguide.stages.generation import Generations


def test_prompts_that_end_in_a_blank_are_counted(caplog):
    def check(*texts):
        task = SimpleNamespace(prompts=[Prompt(text, "all", str(n)) for n, text in enumerate(texts)])
        Generations(
            data=None, model=None, task=task, decoding=None, seed=0, loading=None, auxiliary_loading=None, trainer=None
        ).check()

    check("What do you think?", "a\n", "")
    assert not caplog.messages
    check("What do you think? ", "a", " ")
    (message,) = caplog.messages
    assert message.startswith("2 of 3 prompts end in a blank")
