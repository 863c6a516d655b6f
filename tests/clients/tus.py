"""Uploads a file with tuspy: tus.py ENDPOINT TOKEN FILE STORE once|patient. An upload that an earlier run
has left in STORE is resumed. `once` gives up where the connection breaks. Prints the upload's URL."""

import sys

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.storage.filestorage import FileStorage

endpoint, token, path, store, way = sys.argv[1:]
patient = way == "patient"
client = TusClient(endpoint, headers={"Authorization": f"Bearer {token}"})
try:
    uploader = client.uploader(
        path,
        chunk_size=2 * 1024 * 1024,
        metadata={"filename": "from tuspy.bin", "filetype": "application/x-tus"},
        retries=20 if patient else 0,
        retry_delay=0.3,
        store_url=True,
        url_storage=FileStorage(store),
        upload_checksum=patient,
    )
    uploader.upload()
except (TusCommunicationError, TusUploadFailed) as error:
    sys.exit(repr(error))
print(uploader.url)
