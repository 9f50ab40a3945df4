"""Suggestions for options that do not exist, such as `--optimizer.lr` for `--lr`."""

from collections.abc import Sequence
from difflib import get_close_matches

# What other programs call an option, without dashes and groups.
_ELSEWHERE = {
    "--recipe": "model model_name model_name_or_path arch architecture config_name",
    "--optimizer.lr": "learning_rate lrate max_lr peak_lr learningrate",
    "--optimizer.warmup_steps": "warmup warmup_iters num_warmup_steps warmup_updates",
    "--optimizer.schedule": "lr_scheduler scheduler lr_scheduler_type lr_schedule",
    "--optimizer.weight_decay": "wd decay",
    "--optimizer.beta1": "adam_beta1 betas",
    "--optimizer.beta2": "adam_beta2",
    "--optimizer.min_ratio": "min_lr",
    "--model.compile": "torch_compile",
    "--data.batch_size": "bs batch batchsize global_batch_size per_device_train_batch_size train_batch_size "
    "micro_batch_size",
    "--data.length": "seq_len seq_length sequence_length block_size context context_length max_seq_len max_seq_length "
    "max_length",
    "--data.files": "file train_file text input corpus train_files data_path",
    "--data.validation_files": "validation_file val_file val_files eval_file",
    "--data.tokenizer": "tokenizer_name",
    "--trainer.max_steps": "steps num_steps train_steps max_iters iters iterations max_updates total_steps",
    "--trainer.max_epochs": "epochs num_epochs num_train_epochs epoch n_epochs",
    "--trainer.accelerator": "device use_gpu cpu cuda gpu",
    "--trainer.devices": "gpus num_gpus n_gpus nproc nproc_per_node num_processes world_size",
    "--trainer.num_nodes": "nodes nnodes",
    "--trainer.precision": "dtype fp16 bf16 amp mixed_precision",
    "--trainer.accumulate_grad_batches": "gradient_accumulation_steps grad_accum accumulate update_freq",
    "--trainer.gradient_clip_val": "grad_clip clip clip_norm max_grad_norm gradient_clipping gradient_clip",
    "--trainer.val_check_interval": "eval_interval eval_every eval_steps val_every valid_every validate_every",
    "--trainer.log_every_n_steps": "log_every log_interval logging_steps",
    "--run.save_every": "save_interval save_steps checkpoint_every",
    "--run.root": "output_dir out out_dir output save_dir outdir logdir log_dir",
    "--run.name": "run_name exp_name experiment_name",
    "--run.project": "wandb_project",
    "--ckpt_path": "resume resume_from checkpoint ckpt load resume_from_checkpoint restore",
    "--init-from": "pretrained finetune finetune_from init weights",
    "--seed_everything": "seed random_seed manual_seed",
}
_MEANT = {name: option for option, names in _ELSEWHERE.items() for name in names.split()}


def advice(option: str, known: Sequence[str]) -> str | None:
    """The option that was probably meant.

    Args:
        option: as it was given, without its value.
        known: the options that there are.
    """
    *_, name = option.lstrip("-").replace("-", "_").lower().split(".")
    same = [candidate for candidate in known if candidate.rpartition(".")[2].lstrip("-") == name]
    group = option.rpartition(".")[0]
    meant = [candidate for candidate in same if candidate.rpartition(".")[0] == group] or same
    if len(meant) == 1:
        return meant[0]
    if name in _MEANT and _MEANT[name] in known:
        return _MEANT[name]
    close = get_close_matches(option, known, n=1, cutoff=0.6)
    if not close:
        named = {candidate.rpartition(".")[2].lstrip("-"): candidate for candidate in known}
        close = [named[found] for found in get_close_matches(name, named, n=1, cutoff=0.75)]
    return close[0] if close else next(iter(meant), None)
