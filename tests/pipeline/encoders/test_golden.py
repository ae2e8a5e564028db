"""Our encoders, loaded from official files, against outputs of the authors' own code."""

import math

import numpy as np
import pytest
import torch

from pipeline.encoders import load_encoder
from pipeline.encoders.timechat import timestamp_ids
from tests.recipe import draw, golden

SHALLOW = {"vit_layers": 2, "frame_qformer_layers": 2, "video_qformer_layers": 2}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def golden_frames(shape) -> torch.Tensor:
    return torch.from_numpy(np.clip(0.5 + 0.2 * draw("input/frames", shape), 0, 1))


@pytest.fixture(scope="module")
def cavp(official_files):
    return load_encoder("cavp", checkpoints={"cavp": official_files / "cavp_epoch66.ckpt"})


@pytest.fixture(scope="module")
def timechat_paths(official_files):
    return {
        "vit": official_files / "eva_vit_g.pth",
        "qformer": official_files / "instruct_blip_vicuna7b_trimmed.pth",
        "timechat": official_files / "timechat_7b.pth",
    }


@pytest.fixture(scope="module")
def timechat(timechat_paths):
    return load_encoder("timechat", checkpoints=timechat_paths, config=SHALLOW)


@pytest.fixture(scope="module")
def audiomae(official_files):
    return load_encoder("audiomae", checkpoints={"audiomae": official_files / "audiomae_16k_128bins.ckpt"})


class TestCAVP:
    @torch.inference_mode()
    def test_every_stage(self, cavp):
        expected = golden("cavp")
        x = golden_frames((1, 8, 3, 224, 224)).transpose(1, 2)
        for name, module in cavp.video_encoder.steps():
            x = module(x)
            assert list(x.shape) == expected[f"stage/{name}/shape"].tolist()
            assert relative_error(x.flatten()[:16], expected[f"stage/{name}/first16"]) < 1e-4
            summary = torch.stack([x.mean(), x.std(), x.abs().max()])
            assert relative_error(summary, expected[f"stage/{name}/summary"]) < 1e-4
        assert relative_error(cavp.project(x), expected["unnormalised"]) < 1e-4

    def test_features(self, cavp):
        features = cavp.encode(golden_frames((1, 8, 3, 224, 224)))
        assert relative_error(features, golden("cavp")["features"]) < 1e-4

    def test_uint8_and_float_frames_agree(self, cavp):
        frames = torch.randint(0, 256, (1, 3, 3, 224, 224), dtype=torch.uint8)
        torch.testing.assert_close(cavp.encode(frames), cavp.encode(frames.float() / 255))

    def test_bfloat16_keeps_direction(self, official_files):
        paths = {"cavp": official_files / "cavp_epoch66.ckpt"}
        half = load_encoder("cavp", checkpoints=paths, precision="bfloat16")
        features = half.encode(golden_frames((1, 8, 3, 224, 224)))
        assert features.dtype == torch.float32
        assert torch.cosine_similarity(features, golden("cavp")["features"], dim=-1).min() > 0.999


class TestTimeChat:
    times = tuple(i / 4 for i in range(8))

    def test_timestamps(self):
        assert timestamp_ids(self.times).tolist() == golden("timechat_small")["input_ids"].tolist()

    @pytest.mark.parametrize("time", [-0.1, 9.96, 12.0])
    def test_timestamps_out_of_range(self, time):
        with pytest.raises(ValueError, match="outside"):
            timestamp_ids([time])

    @torch.inference_mode()
    def test_vit_and_frame_qformer(self, timechat):
        expected = golden("timechat_small")
        outputs = []
        hook = timechat.vit.encoder.layers[-1].register_forward_hook(
            lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        patches = timechat.encode_frames(golden_frames((8, 3, 224, 224)))
        hook.remove()
        assert relative_error(outputs[0][0, ::16], expected["vit/frame0"]) < 1e-4
        assert relative_error(outputs[0][-1, 0], expected["vit/last_frame_cls"]) < 1e-4
        assert relative_error(patches[0, :4], expected["ln_vision/frame0_first4"]) < 1e-4
        tokens = timechat.frame_tokens(patches, timestamp_ids(self.times))
        assert relative_error(tokens[0], expected["frame_qformer/frame0"]) < 1e-4
        assert relative_error(tokens[-1], expected["frame_qformer/last_frame"]) < 1e-4

    @pytest.mark.parametrize(("window", "stride"), [(32, 32), (4, 4), (8, 4)])
    def test_windows(self, timechat_paths, window, stride):
        expected = golden("timechat_small")
        name = f"window{window}_stride{stride}"
        settings = {**SHALLOW, "window": window, "stride": stride, "queries": "keep"}
        frames = golden_frames((8, 3, 224, 224))[None]
        encoder = load_encoder("timechat", checkpoints=timechat_paths, config=settings)
        kept = encoder.encode(frames, self.times).unflatten(1, (-1, 32))[0]
        assert relative_error(kept, expected[f"video_qformer/{name}"]) < 1e-4
        projected = encoder.llama_proj(kept)[:, :2, ::8]
        assert relative_error(projected, expected[f"llama_proj/{name}"]) < 1e-4

    def test_mean_is_the_default_and_llama_space(self, timechat, timechat_paths):
        frames = golden_frames((8, 3, 224, 224))[None]
        mean = timechat.encode(frames, self.times)
        expected = golden("timechat_small")["video_qformer/window4_stride4"].mean(dim=1)
        assert relative_error(mean[0], expected) < 1e-4
        llama = load_encoder("timechat", checkpoints=timechat_paths, config={**SHALLOW, "space": "llama"})
        assert llama.encode(frames, self.times).shape == (1, 2, 4096)

    def test_bfloat16_keeps_direction(self, timechat, timechat_paths):
        frames = golden_frames((8, 3, 224, 224))[None]
        half = load_encoder("timechat", checkpoints=timechat_paths, config=SHALLOW, precision="bfloat16")
        cosine = torch.cosine_similarity(half.encode(frames, self.times), timechat.encode(frames, self.times), dim=-1)
        assert cosine.min() > 0.999


def golden_waveform() -> torch.Tensor:
    t = np.arange(163_840) / 16_000
    wave = 0.3 * np.sin(2 * math.pi * 440 * t) + 0.05 * draw("input/waveform", (163_840,))
    return torch.from_numpy(wave.astype(np.float32))


def golden_waveform_10s() -> torch.Tensor:
    t = np.arange(160_000) / 16_000
    wave = 0.02 + 0.1 * np.sin(2 * math.pi * 440 * t) * (t > 3) + 0.02 * draw("input/waveform10s", (160_000,))
    return torch.from_numpy(wave.astype(np.float32))


class TestAudioMAE:
    @torch.inference_mode()
    def test_filter_bank_and_encoder(self, audiomae):
        expected = golden("audiomae")
        waveform = golden_waveform()[None]
        bank = audiomae.filter_bank(waveform - waveform.mean())
        assert bank.shape[1] == int(expected["fbank_frames"])
        assert relative_error(bank[0, ::16], expected["fbank_raw_every16"]) < 1e-4
        spectrogram = audiomae.spectrogram(waveform)
        assert relative_error(spectrogram[0, -4:], expected["fbank_normalised_last4"]) < 1e-4
        contextual = audiomae.contextual(spectrogram)
        assert relative_error(contextual[0, :9], expected["encoder_cls_and_first8"]) < 1e-4
        assert relative_error(audiomae.pool(contextual)[0], expected["pooled"]) < 1e-4

    def test_whole_chain_from_ten_seconds(self, audiomae):
        pooled = audiomae.encode(golden_waveform_10s()[None])
        assert relative_error(pooled[0], golden("audiomae")["pooled_from_10s_waveform"]) < 1e-4

    def test_bfloat16_keeps_direction(self, audiomae, official_files):
        paths = {"audiomae": official_files / "audiomae_16k_128bins.ckpt"}
        half = load_encoder("audiomae", checkpoints=paths, precision="bfloat16")
        waveform = golden_waveform_10s()[None]
        cosine = torch.cosine_similarity(half.encode(waveform), audiomae.encode(waveform), dim=-1)
        assert cosine.min() > 0.999
