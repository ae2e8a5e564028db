"""Official files: how each is called, where its authors publish it, under which licence.

Those of the evaluation's networks, by model; an encoder's and an audio model's are with its settings.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub whose folders are read as they are published.

    It lies as ``folder`` (default: ``name``) in ``weights.folder``, as ``name`` beside weights that ship, and elsewhere
    where ``weights.folders.NAME`` says so: a folder, or a hub id. ``licence`` is that of its files.
    """

    name: str
    hub_id: str
    licence: str
    folder: str = ""

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.hub_id}"

    @property
    def source(self) -> str:
        """Where to get it, and under which licence, in a message's words."""
        return f"{self.address}, licence {self.licence}"

    def part(self, part: str, size_gb: float, role: str = "") -> CheckpointFile:
        """One of its folders, or, if none is read, the files at its top: "". ``role``: default the folder's name."""
        within, below = (f" (folder {part})", f"/{part}") if part else ("", "")
        return CheckpointFile(
            role or part,
            f"{self.folder or self.name}{below}",
            f"{self.address}{within}",
            self.licence,
            size_gb,
            f"hub:{self.hub_id}{below}",
            repository=self,
            part=part,
        )


@dataclass(frozen=True)
class CheckpointFile:
    """An official file, or a folder of a :class:`Repository`, named as in ``weights.folder``.

    ``url`` is where a script fetches it: ``https://...``, or ``hub:owner/name/path`` of the Hugging Face hub;
    empty where no direct address is known, then ``source`` is the page to fetch it from by hand. ``digest`` is what
    its authors publish of it, ``algorithm:hexadecimal digits`` or the first of them; empty where they do not.
    ``part``: which folder of the repository.
    """

    role: str
    filename: str
    source: str
    licence: str
    size_gb: float
    url: str = ""
    digest: str = ""
    repository: Repository | None = None
    part: str = ""


# AudioLDM-2's: its UNet, VAE and vocoder, and of the label encoder and of some mappers.
AUDIOLDM2 = Repository("audioldm2", "cvssp/audioldm2", "CC BY-NC-SA 4.0 (AudioLDM-2)")
# CLAP: its sound half encodes, both halves make the evaluation's CLAP-score.
LAION_CLAP = Repository("clap", "laion/clap-htsat-unfused", "Apache-2.0 (CLAP)", "clap-htsat-unfused")


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
