'use strict';
// The page is fetched again each second, and what differs is put in place, so that a selection and the focus stay.
// What it is made of, names and texts of workers, was escaped where it was written; here it is only moved.
const morph = (old, now) => {
  if (old.isEqualNode(now)) return;
  if (old.nodeName !== now.nodeName) { old.replaceWith(now.cloneNode(true)); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = now.data; return; }
  for (const a of [...old.attributes]) if (!now.hasAttribute(a.name)) old.removeAttribute(a.name);
  for (const a of now.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
  while (old.childNodes.length > now.childNodes.length) old.lastChild.remove();
  now.childNodes.forEach((n, i) => i < old.childNodes.length ? morph(old.childNodes[i], n) : old.append(n.cloneNode(true)));
};
const lost = document.getElementById('lost');
let busy = false;
async function tick() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch(location.href, {signal: AbortSignal.timeout(3000)});
    const now = new DOMParser().parseFromString(await answer.text(), 'text/html');
    morph(document.querySelector('#fleet'), now.querySelector('#fleet'));
    document.title = now.title;
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  } finally { busy = false; }
}
setInterval(tick, 1000);
document.addEventListener('visibilitychange', tick);
