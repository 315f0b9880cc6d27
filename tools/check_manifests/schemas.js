// Checks one object against Kubernetes' published schemas (npm: kubernetes-models), strictly.
//
// The package's validators check types, values and required fields, but let unknown fields pass, as the published schemas do. A
// validator reads every field that its schema has; so the objects are handed to it behind proxies that note what is read, and what
// was never read is unknown. Snapshots are no part of Kubernetes: their fields are below, after the CRDs of external-snapshotter 8.
'use strict';

const SNAPSHOT_FIELDS = {
  VolumeSnapshotClass: {
    required: { driver: 'string', deletionPolicy: ['Delete', 'Retain'] },
    optional: { parameters: 'object' },
  },
  VolumeSnapshot: {
    required: { spec: 'object' },
    optional: {},
    spec: { required: { source: 'object' }, optional: { volumeSnapshotClassName: 'string' } },
    source: { required: {}, optional: { persistentVolumeClaimName: 'string', volumeSnapshotContentName: 'string' } },
  },
};

function modelOf(object) {
  const [group, version] = object.apiVersion.includes('/') ? object.apiVersion.split('/') : ['', object.apiVersion];
  const path = group ? `${group}/${version}` : version;
  try {
    return require(`kubernetes-models/${path}/${object.kind}`)[object.kind];
  } catch (problem) {
    if (problem.code !== 'MODULE_NOT_FOUND' && problem.code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') throw problem;
    return undefined;
  }
}

// A view of `value` that adds the path of each thing that is read to `read`.
function watched(value, path, read) {
  if (value === null || typeof value !== 'object') return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === 'symbol') return target[key];
      read.add(`${path}/${key}`);
      return watched(target[key], `${path}/${key}`, read);
    },
  });
}

function* fieldsOf(value, path = '') {
  if (value === null || typeof value !== 'object') return;
  for (const [key, below] of Object.entries(value)) {
    yield `${path}/${key}`;
    yield* fieldsOf(below, `${path}/${key}`);
  }
}

function checkShape(object, shape, where) {
  const problems = [];
  const known = { ...shape.required, ...shape.optional };
  for (const key of Object.keys(shape.required)) if (!(key in object)) problems.push(`${where}/${key} is required`);
  for (const [key, value] of Object.entries(object)) {
    const wanted = known[key];
    if (wanted === undefined) problems.push(`${where}/${key} is no known field`);
    else if (Array.isArray(wanted) ? !wanted.includes(value) : typeof value !== wanted) problems.push(`${where}/${key} must be ${wanted}`);
  }
  return problems;
}

function checkSnapshotKind(object) {
  const shape = SNAPSHOT_FIELDS[object.kind];
  const { apiVersion, kind, metadata, ...rest } = object;
  const problems = checkShape(rest, shape, '');
  if (shape.spec && rest.spec) {
    problems.push(...checkShape(rest.spec, shape.spec, '/spec'));
    problems.push(...checkShape(rest.spec.source || {}, shape.source, '/spec/source'));
    if (Object.keys(rest.spec.source || {}).length !== 1) problems.push('/spec/source names one thing');
  }
  return problems;
}

/** What is wrong with `object`, one line each. */
function problemsOf(object) {
  if (!object || !object.apiVersion || !object.kind || !object.metadata || !object.metadata.name) {
    return ['apiVersion, kind and metadata.name are required'];
  }
  if (object.apiVersion === 'snapshot.storage.k8s.io/v1' && object.kind in SNAPSHOT_FIELDS) return checkSnapshotKind(object);
  const model = modelOf(object);
  if (model === undefined) return [`${object.apiVersion} has no kind ${object.kind}`];
  const read = new Set();
  const instance = new model({});
  for (const key of Object.keys(object)) {
    Object.defineProperty(instance, key, {
      enumerable: true,
      configurable: true,
      get() {
        read.add(`/${key}`);
        return watched(object[key], `/${key}`, read);
      },
    });
  }
  try {
    instance.validate();
  } catch (problem) {
    return [problem.message.replace(/\s+/g, ' ')];
  }
  const unknown = [];
  for (const path of fieldsOf(object)) {
    if (!read.has(path) && !unknown.some((one) => path.startsWith(`${one}/`))) unknown.push(path);
  }
  return unknown.map((path) => `${path} is no known field`);
}

module.exports = { problemsOf };
