// The gateway's page: images and names of classes in, scores and nearest images out.

import { Problem, ask, classify, embed } from './api.js';
import { cards, element, picture } from './results.js';

const TOP = 5;
const MOST = 200; // images at once

const at = (id) => document.getElementById(id);
const state = { images: [], next: 0, model: null, vectors: new Map(), space: null, run: null };

const access = () => ({ key: at('key').value.trim(), model: state.model?.id });

async function showModel() {
  try {
    const { data } = await ask('v1/models', access());
    [state.model] = data;
    at('model-name').textContent = state.model.id;
    at('model-version').textContent = state.model.version;
    at('model-space').textContent = state.model.space_id;
    at('classes').disabled = at('templates').disabled = !state.model.text;
    if (!state.model.text) at('classes-hint').textContent = 'This model has no text tower, so it knows no names.';
    tell('');
    await showStored();
  } catch (error) {
    at('model-name').textContent = 'unknown';
    explain(error);
  }
}

async function showStored() {
  const { data } = await ask('v1/classes', access());
  const sets = data.filter((set) => !set.error);
  const options = sets.map((set) => element('option', { value: set.name }, `${set.name} (${set.count} classes)`));
  at('stored').replaceChildren(element('option', { value: '' }, 'none'), ...options);
  at('stored-field').hidden = !sets.length;
}

function add(files) {
  const kept = [];
  const left = [];
  for (const file of files) {
    const fits = (!file.type || file.type.startsWith('image/')) && state.images.length + kept.length < MOST;
    (fits ? kept : left).push(file);
  }
  for (const file of kept) {
    const name = file.name || `pasted image ${state.next + 1}`;
    state.images.push({ id: state.next++, name, file, url: URL.createObjectURL(file) });
  }
  drawThumbs();
  report('');
  if (left.length) report('Not taken, being no images or too many:', left.map((file) => file.name));
  if (kept.length) tell(`${count(kept.length, 'image')} added, ${state.images.length} in all.`);
}

function drawThumbs() {
  const items = state.images.map((image, place) => {
    const button = element('button', { type: 'button', 'aria-label': `Remove ${image.name}`, title: 'Remove' }, '×');
    button.addEventListener('click', () => remove(place));
    return element('li', {}, picture(image, image.name), button);
  });
  at('thumbs').replaceChildren(...items);
}

function remove(place) {
  const [image] = state.images.splice(place, 1);
  state.vectors.delete(image.id);
  drawThumbs();
  URL.revokeObjectURL(image.url);
  const buttons = at('thumbs').querySelectorAll('button');
  (buttons[Math.min(place, buttons.length - 1)] ?? at('files')).focus();
  tell(`${image.name} removed, ${state.images.length} left.`);
}

function clear() {
  state.run?.abort();
  state.images.forEach((image) => URL.revokeObjectURL(image.url));
  Object.assign(state, { images: [], vectors: new Map(), space: null });
  at('form').reset();
  drawThumbs();
  chooseFields();
  at('results').hidden = true;
  at('cards').replaceChildren();
  report('');
  tell('All is cleared.');
  at('files').focus();
}

function wanted() {
  if (at('stored').value) return { set: at('stored').value };
  const names = at('classes').value.split('\n').map((name) => name.trim()).filter(Boolean);
  const own = at('templates').value === 'own';
  return names.length ? { names, templates: [own ? at('own').value : at('templates').value] } : null;
}

async function compare() {
  if (!state.images.length) {
    report('There are no images yet. Choose, drop or paste some first.');
    at('files').focus();
    return;
  }
  state.run?.abort();
  const run = (state.run = new AbortController());
  const classes = wanted();
  report('');
  tell(`Looking at ${count(state.images.length, 'image')}…`);
  at('score').disabled = true;
  try {
    if (!state.model) await showModel();
    if (state.model) await score([...state.images], classes, { ...access(), signal: run.signal });
  } catch (error) {
    if (error.name !== 'AbortError') explain(error);
  } finally {
    if (state.run === run) at('score').disabled = false;
  }
}

// Images that have vectors in the space that is served keep them; all others are embedded.
async function score(images, classes, options) {
  let fresh = await embed(images.filter((image) => !state.vectors.has(image.id)), options);
  const none = { tops: new Map(), space: null };
  const classified = classes ? await classify(images, classes, TOP, options) : none;
  const space = classified.space ?? fresh.space ?? state.space;
  if ((fresh.space ?? space) !== space || (state.space ?? space) !== space) {
    state.vectors.clear();
    fresh = await embed(images, options);
    await showModel();
  }
  if (fresh.space !== null && fresh.space !== space) {
    throw new Problem('The model was replaced in the middle. Compare once more.', 'space_changed');
  }
  const left = images.filter((image) => state.images.includes(image)); // some may have been removed meanwhile
  for (const { id } of left) if (fresh.vectors.has(id)) state.vectors.set(id, fresh.vectors.get(id));
  state.space = space;
  draw(left, classes, classified.tops, fresh.failures);
}

function draw(images, classes, tops, failures) {
  const drawn = cards(images, state.vectors, tops);
  at('cards').replaceChildren(...drawn.cards);
  at('results').hidden = !drawn.cards.length;
  at('scale').textContent = `${scale(drawn.most)}Nearness is the cosine of two images, 1 for equal ones.`;
  const against = classes ? `, compared with ${classes.set ? `the set ${classes.set}` : count(classes.names.length, 'name')}` : '';
  tell(`Done: ${count(drawn.cards.length, 'image')}${against}. The results are below.`);
  const bad = images.filter((image) => failures.has(image.id));
  if (bad.length) report('Not shown:', bad.map((image) => `${image.name}: ${failures.get(image.id)}`));
}

function scale(most) {
  if (most === null) return '';
  if (most <= 0) return 'All cosines of names are below 0, so there are no bars. ';
  return `Bars are cosines, all on one scale from 0 to ${most.toFixed(3)}. `;
}

function explain(error) {
  tell('');
  if (error instanceof Problem) {
    report(error.message);
    if (error.code === 'invalid_api_key') {
      at('access').open = true;
      at('key').focus();
    }
  } else {
    report(`This page has a defect: ${error.message}`);
    throw error;
  }
}

function chooseFields() {
  at('own-field').hidden = at('templates').value !== 'own' || Boolean(at('stored').value);
  at('templates-field').hidden = Boolean(at('stored').value);
  at('classes').disabled = Boolean(at('stored').value) || state.model?.text === false;
}

function tell(text) {
  at('status').textContent = text;
}

function report(text, items = []) {
  const list = items.length ? element('ul', {}, ...items.map((item) => element('li', {}, item))) : null;
  at('problem').replaceChildren(...(text ? [text, ...(list ? [list] : [])] : []));
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

at('files').addEventListener('change', () => {
  add(at('files').files);
  at('files').value = ''; // so that the same file can be chosen again
});
at('files').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.ctrlKey || event.metaKey) return;
  event.preventDefault(); // it looks like a button; alone, Enter would submit the form
  at('files').click();
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // or the browser would open what is dropped beside the field
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop') add(event.dataTransfer.files);
  });
}
document.addEventListener('paste', (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    add(event.clipboardData.files);
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) at('form').requestSubmit();
});
at('form').addEventListener('submit', (event) => {
  event.preventDefault();
  compare();
});
at('clear').addEventListener('click', clear);
at('key').addEventListener('change', showModel);
at('stored').addEventListener('change', chooseFields);
at('templates').addEventListener('change', chooseFields);
showModel();
