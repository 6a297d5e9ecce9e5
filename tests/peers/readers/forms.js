// Reads forms as Node's servers do: busboy (multer, Next and others build on it), and Node's own
// Response.formData(), which is undici. Lines in and out as in forms.py beside this file.
"use strict";

const readline = require("node:readline");
const { createRequire } = require("node:module");
const path = require("node:path");

const modules = process.argv[2];
const busboy = createRequire(path.join(modules, "package.json"))("busboy");

function readBusboy(type, body, chunk) {
  return new Promise((resolve, reject) => {
    const fields = [];
    const parser = busboy({ headers: { "content-type": type } });
    parser.on("field", (name, value, info) => {
      const cut = info.nameTruncated || info.valueTruncated;
      // without a value where it does not know the charset; null would be a file
      fields.push([name, cut ? "(truncated)" : value ?? "(undecodable)"]);
    });
    parser.on("file", (name, stream) => {
      fields.push([name, null]);
      stream.on("error", reject);
      stream.resume();
    });
    parser.on("error", reject);
    parser.on("close", () => resolve(fields));
    for (let at = 0; at < body.length; at += chunk) parser.write(body.subarray(at, at + chunk));
    parser.end();
  });
}

async function readUndici(type, body) {
  const form = await new Response(body, { headers: { "content-type": type } }).formData();
  return [...form].map(([name, value]) => [name, typeof value === "string" ? value : null]);
}

async function seen(read) {
  try {
    return { fields: await read() };
  } catch (fault) {
    return { error: String(fault && fault.message) };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    const body = Buffer.from(asked.body, "base64");
    const chunk = asked.chunk || body.length || 1;
    const answer = {
      busboy: await seen(() => readBusboy(asked.type, body, chunk)),
      undici: await seen(() => readUndici(asked.type, body)),
    };
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

main();
