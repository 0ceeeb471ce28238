"""Top-nσ in transformers' own `generate`: sampling stays sensible where the temperature is high.

One word problem is answered 64 times at each temperature, as it is and with top-nσ, and the right answers are counted:

    python examples/top_n_sigma_generate.py
    python examples/top_n_sigma_generate.py --model Qwen/Qwen2.5-0.5B --question "..." --answer 42

Needs forkpoint alone. Without options it runs offline, on the lab model that comes with the package.
"""

import argparse

import torch

import forkpoint

QUESTION = "Tom has 12 apples. Tom buys 7 more. Then the number of apples doubles. How many apples does Tom have now?"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--question", default=QUESTION)
parser.add_argument("--answer", default="38")
options = parser.parse_args()

engine = forkpoint.load_engine(options.model)  # loads model and tokenizer; any other way to load them does as well
model, tokenizer = engine.model, engine.tokenizer
prompt = tokenizer(f"Q: {options.question}\nA: Let's think step by step.", return_tensors="pt").to(model.device)


def right_answers(temperature: float, **sampler) -> tuple[int, str]:
    """How many of 64 responses are right, and the first of them."""
    torch.manual_seed(0)
    out = model.generate(
        **prompt,
        do_sample=True,
        temperature=temperature,
        top_k=0,  # generate's default is 50, which would apply on top
        max_new_tokens=80,
        num_return_sequences=64,
        pad_token_id=tokenizer.eos_token_id,
        **sampler,
    )
    texts = tokenizer.batch_decode(out[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(forkpoint.grade(text.split("\nQ:")[0], options.answer).correct for text in texts), texts[0]


print("temperature   plain   top-nσ   (right answers of 64)")
for temperature in (0.7, 1.0, 2.0, 3.0):
    plain, wild = right_answers(temperature)
    kept, sensible = right_answers(temperature, logits_processor=[forkpoint.TopNSigma(1.0)])
    print(f"{temperature:11}   {plain:5}   {kept:6}")
print("plain, hottest: ", repr(wild[:70]))
print("top-nσ, hottest:", repr(sensible[:70]))
