"""Official files: how each is called, where its authors publish it, under which licence.

Those of the evaluation's networks, by model; an encoder's and an audio model's are with its settings.
"""

from __future__ import annotations

from dataclasses import dataclass

AUDIOLDM2_REPOSITORY = "cvssp/audioldm2"


@dataclass(frozen=True)
class CheckpointFile:
    """An official file, or a folder of a diffusers repository, named as in ``weights.folder``.

    ``url`` is where a script fetches it: ``https://...``, or ``hub:owner/name/path`` of the Hugging Face hub;
    empty where no direct address is known, then ``source`` is the page to fetch it from by hand. ``digest`` is what
    its authors publish of it, ``algorithm:hexadecimal digits`` or the first of them; empty where they do not.
    """

    role: str
    filename: str
    source: str
    licence: str
    size_gb: float
    url: str = ""
    digest: str = ""

    @property
    def in_audioldm2(self) -> bool:
        """Whether this is a folder of AudioLDM-2's, which ``weights.audioldm2`` can put elsewhere."""
        return self.filename.startswith("audioldm2/")


def audioldm2_part(folder: str, size_gb: float) -> CheckpointFile:
    """A folder of AudioLDM-2's diffusers repository."""
    return CheckpointFile(
        folder,
        f"audioldm2/{folder}",
        f"https://huggingface.co/{AUDIOLDM2_REPOSITORY} (folder {folder})",
        "CC BY-NC-SA 4.0 (AudioLDM-2)",
        size_gb,
        f"hub:{AUDIOLDM2_REPOSITORY}/{folder}",
    )


_PASST = "https://github.com/kkoutini/PaSST/releases"
_VGGISH = "https://github.com/harritaylor/torchvggish/releases"
_MMAUDIO = "https://github.com/hkchengrex/MMAudio/releases"

OFFICIAL_FILES: dict[str, tuple[CheckpointFile, ...]] = {
    "panns": (
        CheckpointFile(
            "cnn14",
            "Cnn14_16k_mAP=0.438.pth",
            "https://zenodo.org/records/3987831 (Cnn14_16k_mAP=0.438.pth)",
            "CC BY 4.0",
            0.33,
            "https://zenodo.org/records/3987831/files/Cnn14_16k_mAP=0.438.pth",
        ),
    ),
    "vggish": (
        CheckpointFile(
            "vggish",
            "vggish-10086976.pth",
            f"{_VGGISH} (vggish-10086976.pth)",
            "Apache-2.0",
            0.29,
            f"{_VGGISH}/download/v0.1/vggish-10086976.pth",
            "sha256:10086976",  # torch.hub's rule: the name ends in the first digits
        ),
    ),
    "passt": (
        CheckpointFile(
            "passt",
            "passt-s-f128-p16-s10-ap.476-swa.pt",
            f"{_PASST}/tag/v0.0.1-audioset",
            "Apache-2.0",
            0.34,
            f"{_PASST}/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt",
        ),
    ),
    "imagebind": (
        CheckpointFile(
            "imagebind",
            "imagebind_huge.pth",
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
            "CC BY-NC-SA 4.0",
            4.8,
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        ),
    ),
    "synchformer": (
        CheckpointFile(
            "synchformer",
            "synchformer_state_dict.pth",
            f"{_MMAUDIO} (synchformer_state_dict.pth)",
            "MIT",
            0.95,
            f"{_MMAUDIO}/download/v0.1/synchformer_state_dict.pth",
            "md5:5b2f5594b0730f70e41e549b7c94390c",  # of MMAudio's own download script
        ),
    ),
}
