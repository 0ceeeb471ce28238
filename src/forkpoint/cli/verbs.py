"""The verbs: which module does it, what it does in a line, and commands that show it. Tests parse the commands."""

from __future__ import annotations

GROUPS = {
    "decode and evaluate": {
        "eval": ("forkpoint.cli.eval", "compare decoding strategies on a task, with statistics and a report"),
        "lm-eval": ("forkpoint.cli.eval", "run tasks of lm-eval, the evaluation harness, with decoding strategies"),
        "logits": ("forkpoint.cli.logits", "draw a model's logits along a response, and what samplers keep of them"),
    },
    "critical tokens": {
        "critical": ("forkpoint.cli.critical", "find the token after which a wrong response is lost, by rollouts"),
        "contrast": ("forkpoint.cli.critical", "score tokens by models tuned on right and on wrong responses"),
    },
    "preference training": {
        "pairs": ("forkpoint.cli.pairs", "make preference pairs of responses, of forks, or of TRL's data"),
        "train sft": ("forkpoint.cli.train", "fine-tune a model on the chosen responses of pairs"),
        "train dpo": ("forkpoint.cli.train", "train on pairs: Direct Preference Optimization"),
        "train rpo": ("forkpoint.cli.train", "train on pairs: DPO with a likelihood term"),
        "train tdpo": ("forkpoint.cli.train", "train on pairs: token-level DPO"),
        "train critical-dpo": ("forkpoint.cli.train", "train on pairs: critical tokens weighted (cdpo)"),
        "train fork-dpo": ("forkpoint.cli.train", "train on pairs of single tokens at forks"),
        "merge": ("forkpoint.cli.train", "add an adapter to the weights of its base: a whole model"),
        "rounds": ("forkpoint.cli.rounds", "fine-tune in rounds on own right answers, with a likelihood filter"),
    },
    "pretraining": {
        "score": ("forkpoint.cli.corpus", "score every token of a corpus with a reference model"),
        "select": ("forkpoint.cli.corpus", "write the tokens that a rule selects as labels, for any trainer"),
        "train clm": ("forkpoint.cli.pretrain", "train on every token of a corpus"),
        "train slm": ("forkpoint.cli.pretrain", "train on the tokens of a corpus that a rule selects"),
        "dynamics": ("forkpoint.cli.corpus", "class tokens by how their loss changes over checkpoints"),
    },
    "serving": {
        "serve": ("forkpoint.cli.serve", "put strategies in front of an OpenAI-compatible server, as one"),
    },
    "tools": {
        "convert": ("forkpoint.cli.train", "write a GGUF file out as a model directory"),
        "run": ("forkpoint.cli.run", "run the stages of a recipe; what is done is skipped"),
        "show": ("forkpoint.cli.show", "show a finished run in the terminal: its tables, its responses in colours"),
        "report": ("forkpoint.cli.show", "draw the page of a finished run again"),
        "lab corpus": ("forkpoint.cli.lab", "make the lab's corpus with noise, for selective language modeling"),
        "lab solutions": ("forkpoint.cli.lab", "write the lab's problems with worked solutions as preference rows"),
        "lab train": ("forkpoint.cli.lab", "train the embedded lab model from nothing"),
        "doctor": ("forkpoint.cli.doctor", "say what is installed, what is missing, and what to do about it"),
        "completion": ("forkpoint.cli.completion", "print what makes bash, zsh, fish or tcsh complete"),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}
ALIASES = {"train cdpo": "train critical-dpo"}  # elsewhere "cdpo" means conservative DPO, too
ANEW = {"merge", "convert", "report", "lab corpus", "lab solutions", "lab train"}  # nothing is kept of a part
RESUMING = {*VERBS} - ANEW - {"serve", "doctor", "completion", "show"}  # the same command goes on from where it was

_COMMANDS = """
forkpoint eval --strategy greedy --strategy cot-decoding:k=10 --limit 300 --out runs/eval
forkpoint eval --task gsm8k --model Qwen/Qwen2.5-0.5B --strategy greedy --strategy self-consistency:n=10
forkpoint eval --strategy sample:top_n_sigma=1 --strategy sample:min_p=0.1 --sweep temperature=0.5,1,2,3
forkpoint lm-eval --model Qwen/Qwen2.5-0.5B --tasks gsm8k --strategy greedy --strategy cot-decoding:k=10
forkpoint lm-eval --model Qwen/Qwen2.5-0.5B-Instruct --tasks gsm8k_cot --apply_chat_template --limit 100
forkpoint critical --limit 100 --replace --out runs/critical
forkpoint critical --task gsm8k --model Qwen/Qwen2.5-0.5B-Instruct --prompt chat --temperature 0.7 --limit 100
forkpoint critical --trajectories runs/eval/samples.jsonl --limit 10 --which all --until budget
forkpoint contrast --train_limit 100 --n 16 --out runs/contrast
forkpoint contrast --samples runs/contrast --against runs/critical/critical.jsonl --out runs/agreement
forkpoint contrast --task gsm8k --model Qwen/Qwen2.5-0.5B-Instruct --prompt chat --out runs/chat-contrast
forkpoint logits --out runs/logits
forkpoint logits --model Qwen/Qwen2.5-0.5B --prompt_text 'The capital of France is' --max_tokens 20
forkpoint logits --limit 50 --sampler top_n_sigma=1 --sampler min_p=0.1 --temperatures 0.5,1,2,4
forkpoint pairs --limit 200 --n 16 --out runs/pairs
forkpoint pairs --samples runs/contrast --scores runs/contrast --limit 100 --out runs/weighted-pairs
forkpoint pairs --forks runs/critical --out runs/fork-pairs
forkpoint pairs --task gsm8k --model Qwen/Qwen2.5-0.5B-Instruct --scores runs/chat-contrast --out runs/chat-pairs
forkpoint train sft --pairs runs/pairs --out runs/sft
forkpoint train sft --model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs --bf16 --gradient_checkpointing
forkpoint train dpo --pairs runs/pairs --beta 0.3 --out runs/dpo
forkpoint train dpo --model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs --lora_r 16 --learning_rate 1e-4
forkpoint train rpo --pairs runs/pairs --out runs/rpo
forkpoint train rpo --model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs --alpha 0.5 --lora_r 16
forkpoint train tdpo --pairs runs/pairs --out runs/tdpo
forkpoint train tdpo --model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs --alpha 0.3 --lora_r 16
forkpoint train critical-dpo --pairs runs/weighted-pairs --out runs/critical-dpo
forkpoint train critical-dpo --model Qwen/Qwen2.5-0.5B-Instruct --pairs runs/chat-pairs --lora_r 16 --merge
forkpoint train fork-dpo --pairs runs/fork-pairs --out runs/fork-dpo
forkpoint train fork-dpo --pairs runs/fork-pairs --learning_rate 1e-5 --num_train_epochs 1
forkpoint merge runs/dpo/model merged
forkpoint merge --adapter runs/dpo/model --dtype float32 --out merged
forkpoint convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct
forkpoint convert --file models/smollm2 --dtype bfloat16 --out models/SmolLM2-bf16
forkpoint rounds --limit 400 --eval_limit 300 --rounds 3 --filter token --out runs/rounds
forkpoint rounds --task gsm8k --model Qwen/Qwen2.5-0.5B-Instruct --prompt chat --filter example --lora_r 16
forkpoint score --data runs/corpus/corpus.jsonl --model runs/reference/model --out runs/store
forkpoint score --data corpus/ --model Qwen/Qwen2.5-0.5B --length 2048 --part 1/4 --out runs/large-store
forkpoint score --model runs/reference/model --out runs/store --inspect 0
forkpoint select --store runs/store --ratio 0.6 --out runs/selected
forkpoint select --store runs/store --rule union --ratio 0.5 --entropy_ratio 0.2 --scope corpus
forkpoint train clm --data runs/corpus/clean.jsonl --from_scratch --out runs/reference
forkpoint train clm --store runs/store --snapshots 5 --out runs/clm
forkpoint train clm --data clean/ --model Qwen/Qwen2.5-0.5B --length 2048 --bf16 --out runs/large-reference
forkpoint train slm --store runs/store --ratio 0.6 --out runs/slm
forkpoint train slm --data corpus/ --model Qwen/Qwen2.5-0.5B --reference runs/large-reference/model --bf16
forkpoint dynamics --store runs/store --checkpoints runs/clm/snapshots --out runs/dynamics
forkpoint dynamics --store runs/store --checkpoints runs/clm/model --checkpoints runs/slm/model --shown 20
forkpoint serve --upstream http://localhost:8000/v1 --model Qwen/Qwen3-8B
FORKPOINT_API_KEY=secret forkpoint serve --upstream http://gpu:8000/v1 --model Qwen/Qwen3-8B --host 0.0.0.0
forkpoint run recipes/lab-critical-dpo.yaml --dry_run
forkpoint run recipes/lab-critical-dpo.yaml --out runs/first
forkpoint show runs/critical
forkpoint show runs/critical --id lab/test/0/3 --score drop
forkpoint report runs/critical
forkpoint lab corpus --out runs/corpus
forkpoint lab corpus --documents 6000 --clean_documents 600 --held_out_documents 100 --seed 1
forkpoint lab solutions --problems 200 --out runs/lab-solutions
forkpoint lab solutions --seed 1 --out runs/more-solutions
forkpoint lab train --out runs/lab-model
forkpoint lab train --steps 200 --seed 1
forkpoint doctor
forkpoint doctor --json
source <(forkpoint completion bash)
forkpoint completion zsh > "${fpath[1]}/_forkpoint"
forkpoint completion fish > ~/.config/fish/completions/forkpoint.fish
"""
EXAMPLES: dict[str, list[str]] = {verb: [] for verb in VERBS}
for _line in _COMMANDS.strip().splitlines():
    _words = _line.rstrip(")").partition("forkpoint ")[2].split()
    EXAMPLES[next(verb for verb in (" ".join(_words[:2]), _words[0]) if verb in VERBS)].append(_line)


def examples_of(verb: str) -> str:
    """The end of the verb's help."""
    return "".join(["\nexamples:\n", *(f"  {line}\n" for line in EXAMPLES[verb])])
