"""The colours of every picture and of the report's page. Neither torch nor matplotlib is imported here."""

from __future__ import annotations

COLOURS = {
    "paper": ("#ffffff", "#15181b"),
    "ink": ("#1c2126", "#e7e9eb"),
    "muted": ("#5b656f", "#a0aab4"),
    "rule": ("#dce1e5", "#31383f"),
    # Okabe and Ito's eight colours, which the colour-blind can tell apart, and grey. Yellow is a little darker on
    # white, and the dark colours are lighter on black.
    "blue": ("#0072b2", "#3f9bdc"),
    "orange": ("#e69f00", "#f0b129"),
    "sky": ("#56b4e9", "#93d5fa"),
    "green": ("#009e73", "#22b98d"),
    "black": ("#22272c", "#f4f5f6"),
    "purple": ("#cc79a7", "#dd92bd"),
    "vermillion": ("#d55e00", "#f0782a"),
    "yellow": ("#e4d420", "#f0e442"),
    "grey": ("#6b7279", "#7a828a"),
}
"""Colours by name, for the light theme (and so for every PNG file) and for the dark theme."""
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
SERIES = ("blue", "orange", "sky", "green", "black", "purple", "vermillion", "yellow", "grey")
"""The names of the colours that series get, in this order."""
STRENGTH = (LIGHT["sky"], LIGHT["blue"], "#7b6a8f", LIGHT["vermillion"])
"""From the weakest noise to the strongest: light to dark, and blue to red, so that the order shows without hue."""
