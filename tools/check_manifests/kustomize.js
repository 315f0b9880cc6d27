// The part of kustomize that our manifests use: resources, namespace, images, and patches of JSON 6902. Anything else is refused.
'use strict';

const fs = require('fs');
const path = require('path');
const yaml = require('js-yaml');

const CLUSTER_WIDE = new Set(['Namespace', 'ClusterRole', 'ClusterRoleBinding', 'CSIDriver', 'StorageClass', 'VolumeSnapshotClass', 'PriorityClass']);
const KNOWN = new Set(['apiVersion', 'kind', 'namespace', 'resources', 'images', 'patches']);

function readObjects(file) {
  return yaml.loadAll(fs.readFileSync(file, 'utf8'), undefined, { filename: file }).filter((object) => object)
    .map((object) => structuredClone(object));  // anchors make two places one object
}

function* podSpecs(object) {
  const spec = object.spec && object.spec.template && object.spec.template.spec;
  if (spec) yield spec;
}

function renameImages(object, images) {
  for (const spec of podSpecs(object)) {
    for (const container of [...(spec.initContainers || []), ...(spec.containers || [])]) {
      const image = images.find((one) => one.name === container.image);
      if (image) container.image = `${image.newName || image.name}:${image.newTag}`;
    }
  }
}

function place(object, pointer) {
  const keys = pointer.split('/').slice(1).map((key) => key.replace(/~1/g, '/').replace(/~0/g, '~'));
  const last = keys.pop();
  let at = object;
  for (const key of keys) {
    at = at[key];
    if (at === undefined) throw new Error(`patch of ${object.kind} ${object.metadata.name}: there is no ${pointer}`);
  }
  return [at, last];
}

function patch(object, operations) {
  for (const { op, path: pointer, value } of operations) {
    const [at, key] = place(object, pointer);
    if (op !== 'add' && !(key in at)) throw new Error(`patch of ${object.kind} ${object.metadata.name}: there is no ${pointer}`);
    if (op === 'replace' || (op === 'add' && !Array.isArray(at))) at[key] = value;
    else if (op === 'add') at.splice(key === '-' ? at.length : Number(key), 0, value);
    else if (op === 'remove' && Array.isArray(at)) at.splice(Number(key), 1);
    else if (op === 'remove') delete at[key];
    else throw new Error(`patch: unknown op ${op}`);
  }
}

/** All objects of a folder with a kustomization.yaml. Throws what is wrong with it. */
function build(folder) {
  const file = path.join(folder, 'kustomization.yaml');
  const [kustomization] = readObjects(file);
  for (const key of Object.keys(kustomization)) if (!KNOWN.has(key)) throw new Error(`${file}: ${key} is not handled here`);
  const objects = [];
  for (const resource of kustomization.resources || []) {
    const full = path.join(folder, resource);
    objects.push(...(fs.statSync(full).isDirectory() ? build(full) : readObjects(full)));
  }
  for (const object of objects) {
    if (kustomization.namespace && !CLUSTER_WIDE.has(object.kind)) object.metadata.namespace = kustomization.namespace;
    renameImages(object, kustomization.images || []);
  }
  for (const { target, patch: text } of kustomization.patches || []) {
    const chosen = objects.filter((object) => object.kind === target.kind && object.metadata.name === target.name);
    if (chosen.length !== 1) throw new Error(`${file}: ${chosen.length} objects are ${target.kind} ${target.name}`);
    patch(chosen[0], yaml.load(text));
  }
  return objects;
}

module.exports = { build, readObjects, podSpecs, CLUSTER_WIDE };
