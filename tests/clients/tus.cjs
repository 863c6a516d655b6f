// Uploads a file with tus-js-client: tus.cjs ENDPOINT TOKEN FILE STORE once|patient. An upload that an
// earlier run has left in STORE is resumed. `once` gives up where the connection breaks. Prints the upload's URL.

const fs = require("node:fs");
const tus = require("tus-js-client");

const [, , endpoint, token, path, store, way] = process.argv;

const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  headers: { Authorization: `Bearer ${token}` },
  chunkSize: 2 * 1024 * 1024,
  metadata: { filename: "from tus-js-client.bin", filetype: "application/x-tus" },
  retryDelays: way === "patient" ? Array(20).fill(300) : null,
  urlStorage: new tus.FileUrlStorage(store),
  fingerprint: async () => path,
  onError(error) {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess() {
    console.log(upload.url);
  },
});

upload.findPreviousUploads().then(([previous]) => {
  if (previous) upload.resumeFromPreviousUpload(previous);
  upload.start();
});
