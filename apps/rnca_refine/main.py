"""rNCA Refine as a MONAI Label app: repairs masks, shows the repair as it happens, learns from corrections.

    rnca serve --studies DIR
    python -m monailabel.main start_server --app apps/rnca_refine --studies DIR

MONAI Label loads this file, makes one `RNCARefine` and then serves it. What the app adds or replaces is in `lib`, a
file for each thing; `lib/security.py` is where MONAI Label's own routes are closed or replaced. For research use only;
not a medical device.
"""

import atexit
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.archive import Archive
from lib.audit import Audit
from lib.corrections import Corrections
from lib.datastore import Keeps, Studies
from lib.images import Images
from lib.infers import RESEARCH, RefineTask
from lib.jobs import Workers
from lib.models import Models
from lib.refusals import Refusal
from lib.routes import routers
from lib.scoring import Topology, score_label
from lib.security import harden, quiet_logs
from lib.services import Services
from lib.sessions import SessionStore
from lib.state import MEBI, State
from lib.strategy import MostBroken
from lib.stream import Running, report
from lib.training import RefineTraining, Trainings
from rnca import __version__, refine
from rnca.files import sha256
from rnca.registry import Registry


class RNCARefine(MONAILabelApp):
    """The app; one for each server process."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        quiet_logs()
        # more threads than cores wait for each other at every operation, and a repair takes two (lib/repair.py)
        self.state = State.of(studies, conf or {})
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // (2 * self.state.workers)))
        self.images = Images(self.state.cache_mib * MEBI, self.state.voxels)
        self.models = Models(Registry(self.state.models), self.state.model)
        self.models.active(self.state.model)  # a model that is not there is told now
        self.audit = Audit(self.state.folder / "audit.jsonl")
        self.trainings = Trainings(self.state, self.audit, self._cases, self._trained)
        self.services: Services | None = None
        settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False  # it would start a process after each save; see on_save_label
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="rNCA Refine",
            description=f"Repairs broken segmentation masks with a neural cellular automaton. {RESEARCH}",
            version=__version__,
        )

    # --- what MONAI Label asks for ------------------------------------------------------------------------------

    def init_datastore(self) -> Keeps:
        if self.studies.startswith(("http://", "https://")):
            return self._dicomweb()
        return Studies(
            self.studies,
            self.state,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _dicomweb(self) -> Keeps:
        from dicomweb_client.session_utils import create_session_from_user_pass
        from monailabel.datastore.dicom import DICOMwebClientX

        # dcmqi, which writes DICOM SEG, lies beside the interpreter; MONAI Label would download it
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies.rstrip("/"),
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        return Archive(
            self.state,
            client=client,
            search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or str(self.state.folder / "dicom"),
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
            convert_to_nifti=settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI,
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {
            "rnca_refine": RefineTask(
                InferType.SEGMENTATION,
                self.models,
                "Repairs the mask that is sent along, else the image's final or original label",
                ["segment"],
            ),
            "rnca_refine_edit": RefineTask(
                InferType.SCRIBBLES, self.models, "Repairs the segment that is being edited", ["segment"]
            ),
        }

    def init_trainers(self) -> dict[str, Any]:
        return {"rnca_refine": RefineTraining(lambda: self.trainings, self.models.registry.names)}

    def init_strategies(self) -> dict[str, Any]:
        return {"most_broken": MostBroken(self.images, lambda: self.models, self.state.voxels)}

    def init_scoring_methods(self) -> dict[str, Any]:
        return {"topology": Topology(self.state.voxels)}

    def init_batch_infer(self) -> Any:
        return {}

    def _load_sessions(self, load: bool = False) -> None:
        return None  # lib/sessions.py takes their place

    def on_init_complete(self) -> None:
        """The FastAPI app exists and no request was answered yet."""
        import monailabel.app

        state = self.state
        state.empty_tmp()
        services = Services(
            app=self,
            state=state,
            workers=Workers(state.workers, state.waiting),
            images=self.images,
            models=self.models,
            sessions=SessionStore(state, self.images.forget),
            running=Running(),
            audit=self.audit,
            corrections=Corrections(state, self.datastore),
            trainings=self.trainings,
        )
        self.services = services
        harden(monailabel.app.app, routers(services), state.upload_mib)
        atexit.register(services.running.leave_all)
        atexit.register(self.trainings.close)
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        threading.Thread(target=self._keep_clean, args=(services,), name="sessions", daemon=True).start()

    def _warm_up(self) -> None:
        """Repair something small, so that the first click does not pay for loading and compiling the model."""
        try:
            model, _ = self.models.get(None, "cpu")
            shape = (16,) * model.metadata.dims
            image = np.zeros((model.metadata.image_channels, *shape), np.float32)
            mask = np.zeros(shape, np.uint8)
            mask[(slice(4, 8),) * len(shape)] = 1
            for _ in range(2):
                refine(image, mask, model, 3, device="cpu")
        except Exception as error:  # whoever clicks first will be told
            report(error)

    def _keep_clean(self, services: Services) -> None:
        while True:
            try:
                services.sessions.remove_expired()
            except OSError as error:
                report(error)
            time.sleep(min(60.0, services.state.session_seconds / 4))

    # --- requests -----------------------------------------------------------------------------------------------

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Run an infer task on what the route resolved; nothing in it is a path that a client chose."""
        task = self._infers.get(str(request.get("model")))
        if task is None:
            raise Refusal(404, f"there is no infer task of this name: use {', '.join(self._infers)}.")
        file, told = task(request)
        return {"file": file, "params": told}

    def dicom_seg(self, image: str | None, mask: Path, values: dict[str, Any]) -> bytes:
        """A mask as DICOM SEG; only where the images are DICOM."""
        raise Refusal(400, "output=dicom_seg is there for DICOMweb archives only: ask for image, json or all.")

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The image to look at next; `random`, `first` and no name are taken for this app's own strategy."""
        task = self._strategies.get(request.get("strategy") or "most_broken")
        if task is None:
            raise Refusal(404, f"there is no strategy of this name: use {', '.join(self._strategies)}.")
        found = task(request, self.datastore())
        if not found or not found.get("id"):
            return {}
        told = {"ts": int(time.time()), "client_id": str(request.get("client_id") or "")[:64]}
        self.datastore().update_image_info(found["id"], {"strategy": {request["strategy"]: told}})
        return dict(found)

    def scoring(self, request: dict[str, Any], datastore: Any = None) -> Any:
        task = self._scoring_methods.get(str(request.get("method")))
        if task is None:
            raise Refusal(404, f"there is no scoring method of this name: use {', '.join(self._scoring_methods)}.")
        return task(request, datastore or self.datastore())

    def async_scoring(self, method: str | None, params: Any = None) -> dict[str, Any]:
        return {}  # scores are made in this process when a label is saved

    def on_save_label(self, image_id: str, label_id: str, tag: str = "final", user: str = "") -> None:
        """Score what was saved, and close the correction that a final label ends."""

        def work() -> None:
            try:
                if tag == "final" and self.services is not None:
                    self.services.corrections.seal(image_id, user)
                score_label(self.datastore(), image_id, tag, self.state.voxels)
            except Exception as error:
                if not isinstance(error, Refusal):
                    report(error)

        threading.Thread(target=work, name="scoring").start()

    # --- training -----------------------------------------------------------------------------------------------

    def _cases(self) -> list[dict[str, Any]]:
        """Every image with a final label, with the mask before the correction where it was kept."""
        store = self.datastore()
        sealed = self.services.corrections.newest() if self.services else {}
        cases = []
        for image in sorted(store.get_labeled_images()):
            final, place = Path(store.get_label_uri(image, "final")), sealed.get(image)
            case: dict[str, Any] = {
                "id": image,
                "image": store.get_image_uri(image),
                "final": str(final),
                "before": None,
            }
            before = sorted(place.glob("before.*")) if place else []
            if before:
                case["before"] = str(before[0])
            for key in ("image", "final", "before"):
                if case[key]:
                    case[f"{key}_sha256"] = sha256(case[key])
            case["stem"] = {"image": image, "final": image, "before": ""}
            cases.append(case)
        return cases

    def _trained(self, task: dict[str, Any]) -> None:
        """A training run has ended."""
        result = task.get("result") or {}
        what = "publish" if result.get("published") else "training ended"
        self.audit.write(
            what,
            str(task["request"].get("user", "")),
            run=task["id"],
            status=task["status"],
            published=result.get("published"),
            sha256=result.get("sha256"),
        )


os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
