"""Wires the stages to their adapters: for the web process, the worker and the command line alike."""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from ulid import ULID

from app import log
from app.api.application import application
from app.api.server import MAX_HEADER_BYTES, Server
from app.api.services import Services
from app.banks.current import CurrentBanks
from app.banks.listed import ListedBanks
from app.controls import controls, harden_this_process
from app.errors import NotReadyError
from app.fetch.client import Fetcher
from app.hashing.sandbox import Sandbox
from app.metrics import Metrics
from app.pipeline import Banks, Gate, Outbox
from app.quarantine import Quarantine
from app.report.outbox import SealedOutbox
from app.settings import Settings, SettingsError
from app.store import custodians, processes
from app.store.database import Database
from app.store.keys import KeyRing

logger = logging.getLogger(__name__)
