"""An image folder as a source: what vit22b/folder.py finds, read file by file.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from train.sources.example import Example
from vit22b.folder import Folder


class FolderSource:
    """The images of a folder, in the folder's order."""

    where_labels = 'a sub-folder for each class, or a metadata.jsonl with "labels" on its lines'

    def __init__(self, folder: Folder) -> None:
        """Takes a folder as vit22b.folder.read_folder gives it."""
        self.labels = folder.labels
        self._records = folder.records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        return Example(self.name(index), record.path.read_bytes(), record.labels, record.caption)

    def name(self, index: int) -> str:
        """The path of the file."""
        return str(self._records[index].path)
