// Times on the page of refused files.

import { showLocalTimes } from "./times.js";

showLocalTimes(document);
