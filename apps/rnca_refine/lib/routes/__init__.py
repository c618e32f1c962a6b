"""The HTTP interface: MONAI Label's own addresses, as its clients call them, and those of this project under /rnca.

Every handler leaves the event loop for whatever takes time: short work goes to the usual thread pool, refinements to
the bounded workers, training to a process of its own.
"""

from fastapi import APIRouter

from ..services import Services
from . import confidence, datastore, infer, info, live, models, next_case, sessions, training

PARTS = (infer, live, confidence, sessions, datastore, info, next_case, training, models)


def routers(services: Services) -> list[APIRouter]:
    """Every route of the app."""
    return [part.router(services) for part in PARTS]
