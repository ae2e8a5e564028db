"""What the public training scripts of the models' authors save beside the weights, as they save it."""

import argparse
import sys
from types import ModuleType

import numpy as np
import torch


def _optimizer():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


_SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 3}


def panns(model):
    """PANNs ``pytorch/main.py``: the balanced sampler keeps the clips of each class as arrays."""
    rng = np.random.RandomState(0)
    sampler = {
        "indexes_per_class": [np.where(rng.rand(50) < 0.2)[0] for _ in range(527)],
        "queue": list(rng.permutation(527)),
        "pointers_of_classes": [0] * 527,
    }
    return {"iteration": 600000, "model": model, "sampler": sampler}


def mae(model):
    """MAE ``util/misc.py``: the whole command line as a Namespace."""
    arguments = argparse.Namespace(
        model="mae_vit_base_patch16", blr=1e-3, device=torch.device("cpu"), betas=(0.9, 0.95)
    )
    return {"model": model, "optimizer": _optimizer(), "epoch": 32, "scaler": _SCALER, "args": arguments}


def lavis(model):
    """LAVIS ``runners/runner_base.py``: the configuration as plain dicts."""
    config = {"run": {"task": "image_text_pretrain", "init_lr": 1e-4}, "model": {"arch": "blip2", "freeze_vit": True}}
    return {"model": model, "optimizer": _optimizer(), "config": config, "scaler": _SCALER, "epoch": 4}


def open_clip(model):
    """open_clip ``training/main.py``."""
    return {"epoch": 66, "name": "cavp", "state_dict": model, "optimizer": _optimizer(), "scaler": _SCALER}


def lightning(model, package):
    """Lightning's ``dump_checkpoint``, before 1.5: callbacks by class, hyper parameters of a class of the author's."""
    node = package.DictConfig(content={"lr": package.AnyNode(1e-4)}, flags=None)
    return {
        "epoch": 9,
        "global_step": np.int64(12000),
        "pytorch-lightning_version": "1.4.9",
        "state_dict": model,
        "callbacks": {package.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "best_model_path": "last.ckpt"}},
        "optimizer_states": [_optimizer()],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": np.float64(9)}],
        "hparams_name": "config",
        "hyper_parameters": package.AttributeDict(config=node, seed=3),
    }


class ForeignPackage:
    """A package that is installed where a file is written, and not where it is read (a context)."""

    NAME = "omegaconf_like_of_the_authors"

    def __enter__(self):
        package = ModuleType(self.NAME)
        source = """
class AnyNode:
    def __init__(self, value): self._val = value
    def __getstate__(self): return {"_val": self._val}
    def __setstate__(self, state): self.__dict__.update(state)

class DictConfig:
    def __init__(self, content, flags): self._content, self._flags = content, flags

class AttributeDict(dict):
    pass

class ModelCheckpoint:
    pass
"""
        exec(source, package.__dict__)
        for name in ("AnyNode", "DictConfig", "AttributeDict", "ModelCheckpoint"):
            getattr(package, name).__module__ = self.NAME
        sys.modules[self.NAME] = package
        return package

    def __exit__(self, *_):
        del sys.modules[self.NAME]
