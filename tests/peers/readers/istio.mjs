// What the schemas of Istio's own kinds find wrong with resources: a JSON array of them on stdin, a
// list of faults for each on stdout. The schemas say nothing of members that they do not know, and
// the API drops such in silence: here each member that no schema has looked at is a fault.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const schemas = join(process.argv[2], "node_modules/@kubernetes-models/istio/_schemas");
const OPEN = [/^\/metadata\//, /\/patch\/value\//]; // any members may stand there

function watched(value, path, seen) {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, {
    get(target, name) {
      if (typeof name === "string" && Object.hasOwn(target, name)) seen.add(`${path}/${name}`);
      return watched(target[name], `${path}/${String(name)}`, seen);
    },
  });
}

function unknown(value, path, seen) {
  if (typeof value !== "object" || value === null || OPEN.some((each) => each.test(`${path}/`))) return [];
  return Object.entries(value).flatMap(([name, inside]) => {
    const at = `${path}/${name}`;
    return seen.has(at) ? unknown(inside, at, seen) : [`${at}: not known`];
  });
}

async function faults(resource) {
  const [group, version] = resource.apiVersion.split("/");
  const title = (word) => word[0].toUpperCase() + word.slice(1);
  const name = group.split(".").map(title).join("") + title(version) + resource.kind;
  const { validate } = await import(pathToFileURL(join(schemas, `${name}.js`)));
  const seen = new Set();
  validate(watched(resource, "", seen));
  const said = (validate.errors ?? []).map((each) => `${each.instancePath}: ${each.keyword}`);
  return [...said, ...unknown(resource, "", seen)];
}

const resources = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(resources.map(faults))));
