"""The commands with which each verb's help ends. Tests parse all of them."""

from __future__ import annotations

CHAT_MODEL = "--model Qwen/Qwen2.5-0.5B-Instruct --prompt chat"
CHAT_PAIRS = "--model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "eval": (
        "forkpoint eval --strategy greedy --strategy cot-decoding:k=10 --limit 300 --out runs/eval",
        "forkpoint eval --task gsm8k --model Qwen/Qwen2.5-0.5B --strategy greedy --strategy self-consistency:n=10",
        "forkpoint eval --strategy sample:top_n_sigma=1 --strategy sample:min_p=0.1 --sweep temperature=0.5,1,2,3",
    ),
    "lm-eval": (
        "forkpoint lm-eval --model Qwen/Qwen2.5-0.5B --tasks gsm8k --strategy greedy --strategy cot-decoding:k=10",
        "forkpoint lm-eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks gsm8k_cot --apply-chat-template --limit 100",
    ),
    "critical": (
        "forkpoint critical --limit 100 --replace --out runs/critical",
        f"forkpoint critical --task gsm8k {CHAT_MODEL} --temperature 0.7 --limit 100",
        "forkpoint critical --trajectories runs/eval/samples.jsonl --limit 10 --which all --until budget",
    ),
    "contrast": (
        "forkpoint contrast --train-limit 100 --n 16 --out runs/contrast",
        "forkpoint contrast --samples runs/contrast --against runs/critical/critical.jsonl --out runs/agreement",
        f"forkpoint contrast --task gsm8k {CHAT_MODEL} --train-limit 500 --out runs/chat-contrast",
    ),
    "logits": (
        "forkpoint logits --out runs/logits",
        "forkpoint logits --model Qwen/Qwen2.5-0.5B --prompt-text 'The capital of France is' --max-tokens 20",
        "forkpoint logits --limit 50 --sampler top_n_sigma=1 --sampler min_p=0.1 --temperatures 0.5,1,2,4",
    ),
    "pairs": (
        "forkpoint pairs --limit 200 --n 16 --out runs/pairs",
        "forkpoint pairs --samples runs/contrast --scores runs/contrast --limit 100 --out runs/weighted-pairs",
        "forkpoint pairs --forks runs/critical --out runs/fork-pairs",
        f"forkpoint pairs --task gsm8k {CHAT_MODEL} --scores runs/chat-contrast --out runs/chat-pairs",
    ),
    "train sft": (
        "forkpoint train sft --pairs runs/pairs --out runs/sft",
        f"forkpoint train sft {CHAT_PAIRS} --bf16 --gradient-checkpointing",
    ),
    "train dpo": (
        "forkpoint train dpo --pairs runs/pairs --beta 0.3 --out runs/dpo",
        f"forkpoint train dpo {CHAT_PAIRS} --lora-rank 16 --learning-rate 1e-4",
    ),
    "train rpo": (
        "forkpoint train rpo --pairs runs/pairs --out runs/rpo",
        f"forkpoint train rpo {CHAT_PAIRS} --alpha 0.5 --lora-rank 16",
    ),
    "train tdpo": (
        "forkpoint train tdpo --pairs runs/pairs --out runs/tdpo",
        f"forkpoint train tdpo {CHAT_PAIRS} --alpha 0.3 --lora-rank 16",
    ),
    "train critical-dpo": (
        "forkpoint train critical-dpo --pairs runs/weighted-pairs --out runs/critical-dpo",
        f"forkpoint train critical-dpo {CHAT_PAIRS} --lora-rank 16 --merge",
    ),
    "train fork-dpo": (
        "forkpoint train fork-dpo --pairs runs/fork-pairs --out runs/fork-dpo",
        "forkpoint train fork-dpo --pairs runs/fork-pairs --learning-rate 1e-5 --num-train-epochs 1",
    ),
    "merge": (
        "forkpoint merge runs/dpo/model merged",
        "forkpoint merge --adapter runs/dpo/model --dtype float32 --out merged",
    ),
    "score": (
        "forkpoint score --data runs/corpus/corpus.jsonl --model runs/reference/model --out runs/store",
        "forkpoint score --data corpus/ --model Qwen/Qwen2.5-0.5B --length 2048 --part 1/4 --out runs/large-store",
        "forkpoint score --model runs/reference/model --out runs/store --inspect 0",
    ),
    "select": (
        "forkpoint select --store runs/store --ratio 0.6 --out runs/selected",
        "forkpoint select --store runs/store --rule union --ratio 0.5 --entropy-ratio 0.2 --scope corpus",
    ),
    "train clm": (
        "forkpoint train clm --data runs/corpus/clean.jsonl --from-scratch --out runs/reference",
        "forkpoint train clm --store runs/store --snapshots 5 --out runs/clm",
        "forkpoint train clm --data clean/ --model Qwen/Qwen2.5-0.5B --length 2048 --bf16 --out runs/large-reference",
    ),
    "train slm": (
        "forkpoint train slm --store runs/store --ratio 0.6 --out runs/slm",
        "forkpoint train slm --data corpus/ --model Qwen/Qwen2.5-0.5B --reference runs/large-reference/model --bf16",
    ),
    "dynamics": (
        "forkpoint dynamics --store runs/store --checkpoints runs/clm/snapshots --out runs/dynamics",
        "forkpoint dynamics --store runs/store --checkpoints runs/clm/model --checkpoints runs/slm/model --shown 20",
    ),
    "rounds": (
        "forkpoint rounds --limit 400 --eval-limit 300 --rounds 3 --filter token --out runs/rounds",
        f"forkpoint rounds --task gsm8k {CHAT_MODEL} --filter example --keep-quantile 0.5 --lora-rank 16",
    ),
    "serve": (
        "forkpoint serve --upstream http://localhost:8000/v1 --model Qwen/Qwen3-8B",
        "FORKPOINT_API_KEY=secret forkpoint serve --upstream http://gpu:8000/v1 --model Qwen/Qwen3-8B --host 0.0.0.0",
    ),
    "run": (
        "forkpoint run recipes/lab-critical-dpo.yaml --dry-run",
        "forkpoint run recipes/lab-critical-dpo.yaml --out runs/first",
    ),
    "show": (
        "forkpoint show runs/critical",
        "forkpoint show runs/critical --id lab/test/0/3 --score drop",
    ),
    "report": ("forkpoint report runs/critical",),
    "lab corpus": (
        "forkpoint lab corpus --out runs/corpus",
        "forkpoint lab corpus --documents 6000 --clean-documents 600 --held-out-documents 100 --seed 1",
    ),
    "lab train": ("forkpoint lab train --out runs/lab-model", "forkpoint lab train --steps 200 --seed 1"),
    "doctor": ("forkpoint doctor", "forkpoint doctor --json"),
    "completion": (
        "source <(forkpoint completion bash)",
        'forkpoint completion zsh > "${fpath[1]}/_forkpoint"',
        "forkpoint completion fish > ~/.config/fish/completions/forkpoint.fish",
    ),
}


def examples_of(verb: str) -> str:
    """The end of the verb's help; empty where it has no examples."""
    return "".join(["\nexamples:\n", *(f"  {line}\n" for line in EXAMPLES[verb])]) if verb in EXAMPLES else ""
