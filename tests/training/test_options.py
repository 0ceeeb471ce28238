"""Every TrainingArguments field does something, or is refused; names of layers; default learning rates."""

from __future__ import annotations

from dataclasses import fields

from tiny_models import build_model, tiny_config
from transformers import TrainingArguments

from forkpoint.losses.methods import METHODS
from forkpoint.training.configs import NEEDS, RATES, REFUSED, TRL_ONLY, PreferenceConfig, prepared

EFFECTIVE = (
    "per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs "
    "warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps "
    "max_grad_norm bf16 fp16 tf32 activation_checkpointing gradient_checkpointing torch_compile torch_compile_backend "
    "torch_compile_mode use_liger_kernel neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size "
    "logging_strategy logging_steps logging_first_step log_on_each_node include_num_input_tokens_seen log_level "
    "log_level_replica report_to eval_strategy per_device_eval_batch_size save_strategy save_steps save_on_each_node "
    "save_total_limit enable_jit_checkpoint load_best_model_at_end ignore_data_skip full_determinism seed data_seed "
    "accelerator_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_in_order "
    "train_sampling_strategy ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
    "ddp_timeout debug"
)


def test_every_field_is_effective_conditional_or_refused():
    """A field that a new transformers brings fails here until someone has looked at what it does."""
    names = {f.name for f in fields(TrainingArguments) if f.init}
    groups = (EFFECTIVE.split(), NEEDS.keys(), REFUSED.keys(), TRL_ONLY.keys())
    assert set().union(*groups) == names
    assert sum(map(len, groups)) == len(names)


def test_learning_rates_by_method_and_by_what_is_trained(tokenizer, tmp_path):
    assert set(RATES) == {*METHODS, "sft", "clm", "slm"}
    model = build_model(tiny_config(tokenizer))

    def rate(method, name="a/b", **more):
        args = PreferenceConfig(method=method, **more)
        return prepared(args, tmp_path, model, has_eval=False, name=name).learning_rate

    for method in METHODS:
        assert rate(method) == 1e-6  # TRL's DPOConfig
        assert rate(method, lora_r=2) in (2e-5, 4e-5)  # arXiv 2411.19943
    assert rate("sft") == 2e-5  # TRL's SFTConfig
    assert rate("dpo", "lab", lora_r=2, learning_rate=0.5) == 0.5
    assert rate("dpo", "lab") > 1e-5
