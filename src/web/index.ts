/** @file Door of `web`: where the built dashboard lies. Its sources are in `page/`. */
import { fileURLToPath } from "node:url";

/**
 * The folder of the built page, `index.html` and its assets; absolute. Static: any server will do.
 */
export const pageFolder: string = fileURLToPath(new URL("./page", import.meta.url));
