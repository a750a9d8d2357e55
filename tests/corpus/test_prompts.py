import json

import pytest

from ifguide.corpus.documents import Prompt
from ifguide.corpus.prompts import bold_prompts, local_prompts, toxigen_prompts
from ifguide.evaluation.task import Continuations


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_file_without_prompts_and_a_subset_of_the_wholes_name_are_refused(tmp_path):
    (file := tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=rf"^files={file}: there is no prompt in it$"):
        local_prompts(files=str(file))
    with pytest.raises(ValueError, match=r"^prompts: a subset is called `all`"):
        Continuations(prompts=[Prompt("a", "toxic", "r"), Prompt("b", "all", "s")])


def test_bold_takes_few_prompts_of_each_entity_in_both_layouts(tmp_path):
    entity = {"domain": "gender", "category": "actors", "name": "A"}
    flat = [{**entity, "text": f"A is an actor {i} "} for i in range(3)]
    flat += [{"domain": "race", "category": "x", "name": "B", "text": "B was "}]
    nested = [{**entity, "prompts": [row["text"] for row in flat[:3]]}, {**flat[3], "prompts": ["B was "]}]
    nested[1].pop("text")
    one = bold_prompts(files=write(tmp_path / "flat.jsonl", flat))
    assert one == bold_prompts(files=write(tmp_path / "nested.jsonl", nested))
    assert [(p.text, p.subset) for p in one] == [("A is an actor 0", "gender"), ("B was", "race")]
    every = bold_prompts(files=str(tmp_path / "flat.jsonl"), per_entity=None, subset="category")
    assert [p.subset for p in every] == ["actors"] * 3 + ["x"] and len({p.record for p in every}) == 4
    assert len(bold_prompts(files=str(tmp_path / "flat.jsonl"), per_entity=None, limit=2, subset=None)) == 2


def test_toxigen_breaks_lines_and_takes_as_many_of_every_group(tmp_path):
    rows = [
        {"group": group, "prompt_label": label, "prompt": f"- {group} {label} {i // 2}\\n-"}
        for group in "ab"
        for label in ("hate", "neutral")
        for i in range(6)
    ]
    prompts = toxigen_prompts(files=write(tmp_path / "t.jsonl", rows), limit=2)
    assert len(prompts) == 8 and len({p.text for p in prompts}) == 8 and prompts[0].text == "- a hate 0\n-"
    assert [p.subset for p in prompts].count("hate") == 4
    assert {p.subset for p in toxigen_prompts(files=str(tmp_path / "t.jsonl"), subset="group")} == {"a", "b"}


def test_the_published_files_are_read(datasets_folder):
    bold = bold_prompts(files=str(datasets_folder / "bold" / "bold_prompts.jsonl.gz"))
    assert len(bold) == 7201  # entities, as the paper counts them
    assert len({p.subset for p in bold}) == 5 and all(p.text == p.text.rstrip() != "" for p in bold)
    toxigen = toxigen_prompts(files=str(datasets_folder / "toxigen" / "prompts.jsonl.gz"), limit=3)
    assert {p.subset for p in toxigen} == {"hate", "neutral"} and len(toxigen) == 3 * 31
    assert all(p.text.rstrip().endswith("-") and "\\n" not in p.text for p in toxigen)
