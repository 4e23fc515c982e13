"""The commands that read finished trials: what they show, and how sure of it one may be."""

from __future__ import annotations

import typer

part = typer.Typer()
