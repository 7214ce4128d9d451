// What the page shows of the answers: a card for each image, with its classes as bars and the images nearest to it.

import { cosine } from './api.js';

const NEAREST = 3;
const COARSE = 64; // pixels up to which a picture is enlarged without being smoothed

// Makes an element with attributes and children; texts are texts, never HTML.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function picture(image, text) {
  const shown = element('img', { class: 'picture', src: image.url, alt: text });
  shown.addEventListener('load', () => {
    if (Math.max(shown.naturalWidth, shown.naturalHeight) <= COARSE) shown.classList.add('coarse');
  });
  return shown;
}

// The cards of images that were embedded; `tops` has the best classes of each where there were classes.
export function cards(images, vectors, tops) {
  const scores = [...tops.values()].flat().map((guess) => guess.score);
  const most = Math.max(0, ...scores);
  const shown = images.filter((image) => vectors.has(image.id));
  return {
    most: scores.length ? most : null,
    cards: shown.map((image) => card(image, shown, vectors, tops.get(image.id), most)),
  };
}

function card(image, images, vectors, top, most) {
  const near = nearest(image, images, vectors);
  const head = element(
    'div',
    { class: 'head' },
    picture(image, ''),
    element('div', {}, element('h3', {}, top ? top[0].class : image.name), top ? element('p', { class: 'name' }, image.name) : ''),
  );
  return element(
    'li',
    { class: 'card' },
    head,
    top ? bars(top, most) : null,
    near.length ? element('h4', {}, 'Nearest among these images') : null,
    near.length ? neighbours(near) : null,
  );
}

function bars(top, most) {
  const rows = top.map(({ class: name, score }) => {
    const fill = element('div', { class: 'fill' });
    fill.style.width = `${most > 0 ? (100 * Math.max(0, score)) / most : 0}%`;
    return element(
      'li',
      {},
      element('span', { class: 'class' }, name),
      element('span', { class: 'track', 'aria-hidden': 'true' }, fill),
      element('span', { class: 'number' }, score.toFixed(3)),
    );
  });
  return element('ol', { class: 'bars', 'aria-label': 'Classes, best first, with their cosines' }, ...rows);
}

function neighbours(near) {
  const rows = near.map(({ image, score }) =>
    element(
      'li',
      {},
      picture(image, ''),
      element('span', { class: 'name', title: image.name }, image.name),
      element('span', { class: 'number' }, score.toFixed(3)),
    ),
  );
  return element('ol', { class: 'near' }, ...rows);
}

function nearest(image, images, vectors) {
  return images
    .filter((other) => other !== image)
    .map((other) => ({ image: other, score: cosine(vectors.get(image.id), vectors.get(other.id)) }))
    .sort((one, other) => other.score - one.score)
    .slice(0, NEAREST);
}
