// The gateway's API, for the page: requests in parts that it takes, and errors in words.

const PART_BYTES = 4 * 2 ** 20; // of the images of a request; in base64 a third more
const PART_IMAGES = 16;
const TRIES = 4; // of a request that is refused because there are too many

export class Problem extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

// Asks; `key` is of the API, or empty.
export async function ask(path, { key = '', signal, ...options } = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set('Authorization', `Bearer ${key}`);
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new Problem('The gateway does not answer. Is it still running?', 'unreachable');
    }
    if (response.ok) return response.json();
    if (response.status === 429 && attempt < TRIES) {
      await pause(1000 * Number(response.headers.get('Retry-After') || 1), signal);
      continue;
    }
    throw await problem(response);
  }
}

async function problem(response) {
  try {
    const { error } = await response.json();
    return new Problem(sentence(error.message), error.code);
  } catch {
    return new Problem(`The gateway answered with the status ${response.status}.`, 'unknown');
  }
}

// Vectors of images by their ids, as far as they are images, with what is wrong with the others.
export async function embed(images, { model, ...access }) {
  const found = { vectors: new Map(), failures: new Map(), space: null };
  for (const part of parts(images)) {
    const input = await Promise.all(part.map(async (image) => ({ image: await dataUri(image.file) })));
    const body = JSON.stringify({ model, input, encoding_format: 'base64', on_error: 'skip' });
    const headers = { 'Content-Type': 'application/json' };
    const answer = await ask('v1/embeddings', { method: 'POST', body, headers, ...access });
    keepSpace(found, answer);
    for (const { index, embedding } of answer.data) found.vectors.set(part[index].id, floats(embedding));
    for (const { index, reason } of answer.failures) found.failures.set(part[index].id, reason);
  }
  return found;
}

// The best classes of images by their ids. `classes` is {names, templates}, or {set} for a stored set.
export async function classify(images, classes, top, { model, ...access }) {
  const found = { tops: new Map(), space: null };
  for (const part of parts(images)) {
    const body = new FormData();
    for (const image of part) body.append('images', image.file, 'image');
    if (classes.set) body.append('class_set', classes.set);
    for (const name of classes.names ?? []) body.append('classes', name);
    for (const template of classes.templates ?? []) body.append('templates', template);
    body.append('top', top);
    body.append('model', model);
    const answer = await ask('v1/classify', { method: 'POST', body, ...access });
    keepSpace(found, answer);
    for (const item of answer.data) if (item.top) found.tops.set(part[item.index].id, item.top);
  }
  return found;
}

export function cosine(one, other) {
  return one.reduce((sum, value, place) => sum + value * other[place], 0);
}

function keepSpace(found, answer) {
  if (found.space !== null && found.space !== answer.space_id) {
    throw new Problem('The model was replaced in the middle. Compare once more.', 'space_changed');
  }
  found.space = answer.space_id;
}

function* parts(images) {
  let part = [];
  let bytes = 0;
  for (const image of images) {
    if (part.length === PART_IMAGES || (part.length && bytes + image.file.size > PART_BYTES)) {
      yield part;
      part = [];
      bytes = 0;
    }
    part.push(image);
    bytes += image.file.size;
  }
  if (part.length) yield part;
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Problem(`${file.name} cannot be read any more. Choose it again.`, 'unreadable'));
    reader.readAsDataURL(file);
  });
}

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 4 }, (_, place) => view.getFloat32(4 * place, true));
}

// Ends early, as an aborted fetch does, when the signal comes.
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
