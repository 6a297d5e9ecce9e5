// Reads JSON as Node's servers do: JSON.parse of the body as UTF-8 text. Lines in and out as in
// jsons.py beside this file.
"use strict";

const readline = require("node:readline");

function find(document, path) {
  for (const name of path) {
    if (document === null || document === undefined) return null;
    if (typeof document !== "object" || Array.isArray(document)) {
      throw new TypeError(`${path.join(".")} is not in an object`);
    }
    document = Object.hasOwn(document, name) ? document[name] : null;
  }
  if (typeof document === "object" && document !== null) return "(compound)";
  if (typeof document === "number" && !Number.isFinite(document)) return "(infinite)";
  return document === undefined ? null : document;
}

function read(body, paths) {
  try {
    const document = JSON.parse(body.toString("utf8"));
    if (document === null) return { error: "null" };
    return { seen: paths.map((path) => find(document, path)) };
  } catch (fault) {
    return { error: String(fault) };
  }
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { paths, bodies } = JSON.parse(line);
  const node = bodies.map((body) => read(Buffer.from(body, "base64"), paths));
  process.stdout.write(`${JSON.stringify({ node })}\n`);
});
