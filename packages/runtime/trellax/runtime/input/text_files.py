"""Documents in plain text, from files or from an installed package.

TextFiles.default_config().set(paths=["books/"], split=ParagraphGroups.default_config())
"""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

from trellax.config import REQUIRED, Required
from trellax.runtime.input.documents import DocumentSource
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.files import decode, digest, digest_of_files, expand
from trellax.runtime.input.splitting import Splitter, WholeText


class SplitTexts(DocumentSource):
    """Texts that a rule cuts into documents. They are held in memory from the first use on."""

    class Config(DocumentSource.Config):
        """Attributes: split: the rule that cuts each text into documents."""

        split: Splitter.Config = WholeText.default_config()

    cfg: Config

    def _texts(self) -> list[tuple[str, str]]:
        """Returns (name for messages, text) of each text."""
        raise NotImplementedError

    @functools.cached_property
    def _documents(self) -> list[str]:
        splitter: Splitter = self.cfg.split.instantiate()
        texts = self._texts()
        documents = [document for _, text in texts for document in splitter.split(text)]
        if not documents:
            raise InputError(f"{', '.join(name for name, _ in texts)}: no text but white space.")
        return documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> str:
        return self._documents[self._checked(index)]


class TextFiles(SplitTexts):
    """UTF-8 text files."""

    class Config(SplitTexts.Config):
        """Where the text lies.

        Attributes:
            paths: files, folders (all files below them that end in `suffix`) and globs.
            suffix: what a folder's files end in.
        """

        paths: Required[list[str]] = REQUIRED
        suffix: str = ".txt"

    cfg: Config

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._files: list[Path] = expand(cfg.paths, suffix=cfg.suffix)

    def _texts(self) -> list[tuple[str, str]]:
        return [(str(file), decode(file.read_bytes(), file)) for file in self._files]

    def fingerprint(self) -> str:
        return digest(digest_of_files(self._files), repr(self.cfg.split))


class PackageText(SplitTexts):
    """UTF-8 text that is installed with a Python package."""

    class Config(SplitTexts.Config):
        """Where the text lies.

        Attributes:
            package: importable name, for example "my_project.data".
            resources: names of files in the package's folder, in the order of their documents.
        """

        package: Required[str] = REQUIRED
        resources: Required[list[str]] = REQUIRED

    cfg: Config

    @functools.cached_property
    def _contents(self) -> list[tuple[str, bytes]]:
        try:
            folder = importlib.resources.files(self.cfg.package)
        except ModuleNotFoundError as e:
            raise InputError(f"Package {self.cfg.package!r} is not installed ({e}).") from None
        contents = []
        for name in self.cfg.resources:
            resource = folder.joinpath(name)
            if not resource.is_file():
                raise InputError(f"Package {self.cfg.package!r} holds no file {name!r}.")
            contents.append((f"{self.cfg.package}/{name}", resource.read_bytes()))
        return contents

    def _texts(self) -> list[tuple[str, str]]:
        return [(name, decode(data, name)) for name, data in self._contents]

    def fingerprint(self) -> str:
        return digest(*(data for _, data in self._contents), repr(self.cfg.split))
