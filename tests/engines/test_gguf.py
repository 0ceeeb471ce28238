"""Models in GGUF files: the same numbers as from safetensors, and one sentence for each file that cannot be read."""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file
from tiny_models import build_model, tiny_config
from transformers import Qwen2Config

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.engines.gguf import gguf_file
from forkpoint.engines.loading import load_pretrained, load_vocabulary
from forkpoint.types import Request, Sampling, UserError

PROMPT = "Q: Ada has 12 apples. How many apples does Ada have now?\nA:"
SETTINGS = {"device": "cpu", "dtype": "auto", "revision": None, "trust_remote_code": False}


@pytest.fixture(scope="module")
def qwen(tokenizer):
    """A tiny Qwen2, whose attention has biases."""
    model = build_model(tiny_config(tokenizer, Qwen2Config, num_key_value_heads=2, tie_word_embeddings=False))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def file(qwen, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(qwen, tokenizer, path, "qwen2")
    return path


@pytest.mark.parametrize("by", ["file", "directory"])
def test_another_architecture_is_read_exactly(file, qwen, tokenizer, by):
    model, own = load_pretrained(str(file if by == "file" else file.parent), **SETTINGS)
    ids = own(PROMPT)["input_ids"]
    assert ids == tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ids])).logits, qwen(torch.tensor([ids])).logits)


def test_it_decodes_as_its_safetensors_twin(file, qwen, tokenizer, tmp_path):
    qwen.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    requests = [Request(str(i), tuple(tokenizer(PROMPT)["input_ids"])) for i in range(4)]
    one, two = (list(load_engine(str(m)).generate(requests, Sampling(max_tokens=12))) for m in (file, tmp_path))
    assert [c.token_ids for c in one] == [c.token_ids for c in two]


def test_it_is_converted_once(file, qwen, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["convert", str(file), str(out), "--dtype", "bfloat16"]) == 0
    assert {path.name for path in out.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors"}
    stored = load_file(out / "model.safetensors")
    for name, tensor in qwen.state_dict().items():
        assert torch.equal(stored[name], tensor.bfloat16()), name
    assert load_engine(str(out)).name == str(out)
    assert main(["convert", str(file), str(out)]) == 2
    assert main(["convert", str(out), str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err
    assert "holds files already" in said
    assert "is no GGUF file" in said


def test_the_vocabulary_needs_no_weights(file, tokenizer):
    vocabulary = load_vocabulary(str(file))
    assert vocabulary.ends == (tokenizer.eos_token_id,)
    assert (vocabulary.vocab_size, vocabulary.context) == (len(tokenizer), 512)


def test_a_directory_with_a_model_is_that_model(tmp_path, file):
    tmp_path = tmp_path / "model.gguf"
    tmp_path.mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    assert gguf_file(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.gguf", "b.gguf"], "2 GGUF files"),
        (["a-00001-of-00002.gguf"], "one part"),
        (["a.gguf"], "no tokenizer could be loaded"),
    ],
    ids=["several", "a part", "broken"],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("GGUF")
    with pytest.raises(UserError, match=words) as raised:
        load_pretrained(str(tmp_path), **SETTINGS)
    assert "\n" not in str(raised.value)


def test_an_unknown_architecture_is_one_sentence(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "rwkv7")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="rwkv7"):
        load_pretrained(str(tmp_path), **SETTINGS)


def test_a_missing_file_is_no_hub_id():
    with pytest.raises(UserError, match="there is no file"):
        load_pretrained("nowhere.gguf", **SETTINGS)


def test_a_missing_package_is_named(file, monkeypatch):
    monkeypatch.setattr("forkpoint.engines.gguf.find_spec", lambda name: None if name == "gguf" else True)
    with pytest.raises(UserError, match=r"pip install .*gguf"):
        load_pretrained(str(file), **SETTINGS)
