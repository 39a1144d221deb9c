"""Ten spoken words as log-mel images, synthesised by eSpeak NG, which the PyPI package espeakng-loader carries.

No voice is in two splits, so that the test says something of voices that no model has heard.
"""

import ctypes
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from packages import scratch, wheel

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
PACKAGE = "espeakng-loader==0.2.4"
# Of each split, and how many of them share an utterance.
SAMPLES = {"train": (12000, 2), "validation": (1500, 1), "test": (4000, 1)}
FRAMES, BANDS = 98, 40
WINDOW, HOP, FFT = 552, 220, 1024
# What is black, in decibels below the loudest band of the loudest frame, which is white.
DARKEST = 60.0
# espeak_ng/speak_lib.h
RETRIEVAL, CHARACTERS, UTF8 = 1, 1, 1
RATE, PITCH, PITCH_RANGE = 1, 3, 4
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesiser:
    """eSpeak NG in `folder`, which holds its library and its voices."""

    def __init__(self, folder: Path) -> None:
        self._library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        self._parts: list[np.ndarray] = []
        self._callback = CALLBACK(self._keep)  # held, for the library calls it as long as it lives
        self.rate = int(self._library.espeak_Initialize(RETRIEVAL, 0, str(folder).encode(), 0))
        if self.rate <= 0:
            raise SystemExit(f"eSpeak NG does not start from {folder}")
        self._library.espeak_SetSynthCallback(self._callback)
        self.variants = sorted(file.name for file in (folder / "espeak-ng-data/voices/!v").iterdir())

    def _keep(self, samples: Any, count: int, _events: int) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, words_a_minute: int, pitch: int, pitch_range: int) -> np.ndarray:
        """A word's sound, [samples] float64 from -1 to 1; empty where the voice cannot say it."""
        self._parts.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            return np.empty(0)
        for parameter, value in ((RATE, words_a_minute), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        text = word.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, CHARACTERS, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._parts) / 32768.0 if self._parts else np.empty(0)


def mel_filters(rate: int) -> np.ndarray:
    """Triangles that are even on the mel scale, from 60 Hz to 7.6 kHz, [FFT // 2 + 1, BANDS]."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60.0, 7600.0))
    hertz = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.arange(FFT // 2 + 1) * rate / FFT
    rising = (bins[:, None] - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[2:] - bins[:, None]) / (hertz[2:] - hertz[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def log_mel(sound: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """[samples] -> uint8 [FRAMES, BANDS]. A sound has (FRAMES - 1) * HOP + WINDOW samples."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 @ filters
    decibels = 10 * np.log10(power + 1e-9)
    share = 1 + (decibels - decibels.max()) / DARKEST
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def place(word: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The word somewhere in a window, with pink to white noise of 3 to 30 dB below it; a longer one is cut."""
    length = (FRAMES - 1) * HOP + WINDOW
    sound = np.zeros(length)
    start = int(rng.integers(0, max(1, length - len(word))))
    sound[start : start + len(word)] = word[:length]
    spectrum = rng.standard_normal(length // 2 + 1) + 1j * rng.standard_normal(length // 2 + 1)
    noise = np.fft.irfft(spectrum / np.arange(1, length // 2 + 2) ** rng.uniform(0, 0.6), length)
    level = np.std(word) / np.std(noise) * 10 ** (-rng.uniform(3, 30) / 20)
    return sound + level * noise


def split(
    synthesiser: Synthesiser, variants: list[str], samples: int, takes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [samples, FRAMES, BANDS, 1], labels [samples] int64): as many of each word, by these variants of voices.

    takes: samples of each utterance, each at another place and with other noise.
    """
    filters = mel_filters(synthesiser.rate)
    images = np.empty((samples, FRAMES, BANDS, 1), dtype=np.uint8)
    labels = np.arange(samples, dtype=np.int64) // takes % len(WORDS)
    for first in range(0, samples, takes):
        word = np.empty(0)
        while not len(word) or word.std() == 0:
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(variants)}"
            speed, pitch, pitch_range = rng.integers((110, 15, 20), (260, 90, 90))
            word = synthesiser.say(WORDS[labels[first]], voice, int(speed), int(pitch), int(pitch_range))
        for i in range(first, min(first + takes, samples)):
            images[i, :, :, 0] = log_mel(place(word, rng), filters)
    return images, labels


def make(out: Path) -> None:
    """Writes train.npz, validation.npz and test.npz into `out`, which does not exist."""
    rng = np.random.default_rng(0)
    with scratch() as folder:
        with zipfile.ZipFile(wheel(PACKAGE, folder)) as archive:
            archive.extractall(folder)
        synthesiser = Synthesiser(folder / "espeakng_loader")
        variants = [str(name) for name in rng.permutation(synthesiser.variants)]
        fifth = len(variants) // 5
        voices = {"test": variants[:fifth], "validation": variants[fifth : 2 * fifth], "train": variants[2 * fifth :]}
        new = folder / "words"
        new.mkdir()
        for name, (samples, takes) in SAMPLES.items():
            images, labels = split(synthesiser, voices[name], samples, takes, rng)
            np.savez(new / f"{name}.npz", image=images, label=labels)
        new.rename(out)
