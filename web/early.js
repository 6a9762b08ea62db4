// SPDX-License-Identifier: Apache-2.0
// early.js - before the first paint: the theme that was chosen, so that nothing flashes. Without a choice it is the system's.
(() => {
  try {
    const theme = localStorage.getItem('quern.theme');
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // nothing is kept here
  }
})();
